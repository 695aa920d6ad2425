"""What derta's settings may be together, and DeRTa and TA-SFT in one training."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import told
from demur import config, training
from demur.errors import UserError
from demur.fitting import Train
from demur.recipes import derta
from demur.settings import page_settings
from demur.supervision import IGNORE
from exchanges import UNSAFE
from test_recipes import LOOKALIKE, ORDINARY, PAIR, UNPAIRED, WRONGFUL, made

AVOID_ROWS = {"lambda": 1, "avoid": "rows"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prefix": False, "transitions": False}, "leave nothing of derta"),
        ({"gate": 0.2}, "train.gate does nothing without train.lambda above 0"),
        ({"term": "npo"}, "train.term does nothing without train.lambda above 0"),
        ({"avoid": "rows"}, "train.avoid does nothing without train.lambda above 0"),
        ({"lambda": 0, "gate": 0.2}, "train.gate does nothing without train.lambda above 0"),
        ({"prefix": False, "prefix_max": 3}, "prefix_max does nothing without train.prefix=true"),
        (
            {"transitions": False, "transitions_kept": 0.5},
            "train.transitions_kept does nothing without train.transitions=true",
        ),
        ({"prefix": False, "align_openings": True}, "align_openings does nothing without"),
        ({"lambda": 1.0, "transitions": False}, "lambda=1.0 with .* avoids nothing: set train.avo"),
        ({"lambda": 1.0, "gate": 0.5, "transitions": False}, "avoids nothing"),
        ({"lambda": 1.0, "term": "npo"}, "npo compares whole answers: set train.avoid=all"),
    ],
)
def test_no_setting_is_idle(settings, said):
    with pytest.raises(UserError, match=said):
        page_settings(derta, settings, "train")


@pytest.mark.parametrize(
    "settings",
    [
        {"lambda": 0.5, "gate": 0.2},
        {"lambda": 0.0},
        {"transitions": False, **AVOID_ROWS, "gate": 0.5},
        {"prefix": False, "safe": True, "align_openings": False},
        {"lambda": 1.0, "term": "npo", "avoid": "all"},
    ],
)
def test_settings_that_have_something_to_do_stand_together(settings):
    found = page_settings(derta, settings, "train").model_dump(by_alias=True)
    assert {key: found[key] for key in settings} == settings


BELOW = {"recipe": "derta", "prefix_max": 3, "transitions_kept": 0.5, "lambda": 1, "gate": 0.5}


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ({"prefix": False}, {"prefix_max"}),
        ({"lambda": 0}, {"gate"}),
        ({"transitions": False, "lambda": 0}, {"transitions_kept", "gate"}),
    ],
)
def test_what_is_switched_off_later_rests(tmp_path: Path, switch, gone):
    """In a variant, and on a command line: nobody can take out there what a file says."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"{{output: runs/x, model: {{name: y}}, train: {BELOW}, variants: {{v: {switch}}}}}"
    )
    overrides = [f"train.{key}={value}" for key, value in switch.items()]
    found = (
        config.load(file).trainings()["v"],
        config.load(file, [*overrides, "variants={}"]).trainings()["after"],
    )
    for train in found:
        written = train.method.model_dump(by_alias=True, exclude_unset=True)
        assert written == {k: v for k, v in BELOW.items() if k not in {"recipe", *gone}} | switch


def test_a_part_of_a_preset_may_be_switched_off(tiny):
    for off, kind in ({"prefix": False}, "transition"), ({"transitions": False}, "prefix"):
        rows = made(tiny["chatml"], "derta", PAIR, preset="reference", **off)
        assert [row.kind for row in rows] == [kind]


@pytest.mark.parametrize("word", ["", " Sorry", "Sorry\n"])
def test_a_transition_is_a_word_without_spaces_around_it(word):
    with pytest.raises(UserError, match=re.escape(f"train.transition={word!r}: write a word")):
        page_settings(derta, {"transition": word}, "train")


def test_a_word_that_yaml_takes_for_a_boolean_has_a_cure(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("{output: runs/x, model: {name: y}, train: {recipe: derta}}")
    with pytest.raises(UserError, match=r"""'train.transition="No"' on a command line"""):
        config.load(file, ["train.transition=No"])
    assert config.load(file, ['train.transition="No"']).train.method.transition == "No"


# --- both at once ----------------------------------------------------------------------------


def test_what_is_kept_is_learnt_and_avoided_at_the_same_positions(tiny):
    seen = set()
    for seed in range(20):
        [row] = made(tiny["chatml"], "derta", PAIR, seed, prefix=False, **{"lambda": 1})
        learnt = [n for n, token in enumerate(row.labels) if token != IGNORE]
        assert learnt == [n for n, token in enumerate(row.avoid) if token != IGNORE]
        seen.add(tuple(learnt))
    assert len(seen) > 3


def test_all_of_an_unsafe_answer_may_be_avoided(tiny):
    [row] = made(tiny["chatml"], "derta", PAIR, 3, prefix=False, **{"lambda": 1, "avoid": "all"})
    assert told(tiny["chatml"], row).endswith(" Sure>Sorry- ,- _here- _is- _how- <|im_end|>")


def test_both_methods_in_one_mix(tiny):
    mix = {"learn": 2, "lookalike": 1, "prefix": 1, "transition": 1, "avoid": 2, "safe": 1}
    train = Train.model_validate({"recipe": "derta", **AVOID_ROWS, "safe": True, "mix": mix})
    examples = [ORDINARY, LOOKALIKE, PAIR, UNPAIRED]
    rows = training.rows(examples, tiny["chatml"], train)
    training.check(rows, train)
    assert {kind: sum(row.kind == kind for row in rows) for kind in mix} == dict.fromkeys(
        mix, 1
    ) | {"avoid": 2}
    assert all(not any(token >= 0 for token in r.avoid) for r in rows if r.kind == "transition")


def test_without_avoid_rows_an_unsafe_answer_needs_a_safe_one(tiny):
    with pytest.raises(UserError, match="needs a safe answer"):
        made(tiny["chatml"], "derta", UNPAIRED, **{"lambda": 1})


def test_a_safe_answer_without_an_unsafe_one_is_one_row(tiny):
    alone = replace(PAIR, rejected=None)
    for settings, kind in ({}, "prefix"), ({"safe": True}, "safe"):
        assert [row.kind for row in made(tiny["chatml"], "derta", alone, **settings)] == [kind]


@pytest.mark.parametrize("recipe", ["derta", "recaug"])
def test_a_training_that_shows_no_refusal_is_refused(tiny, recipe):
    """A preference file under `everyday` is full of pairs, and none is to a harmful prompt."""
    train = Train.model_validate({"recipe": recipe})
    rows = training.rows([ORDINARY, WRONGFUL], tiny["chatml"], train)
    with pytest.raises(
        UserError, match=rf"recipe '{recipe}' learns to decline.*data.train.harmful"
    ):
        training.check(rows, train)


def test_pairs_to_harmless_prompts_are_not_counted(tiny):
    """Every third pair has no prefix: a look-alike's, between them, is no row of theirs."""
    pairs = [replace(PAIR, rejected=f"{UNSAFE} {n} a b c") for n in ("one", "two", "three", "four")]
    mixed = [pairs[0], WRONGFUL, pairs[1], WRONGFUL, *pairs[2:]]
    train = Train.model_validate({"recipe": "recaug", "preset": "reference"})
    [ordinary] = made(tiny["chatml"], "sft", ORDINARY)
    for examples in pairs, mixed:
        rows = training.rows(examples, tiny["chatml"], train)
        first = [row.first for row in rows if row.kind == "prefix"]
        assert [place == ordinary.first for place in first] == [True, False, False, True]
