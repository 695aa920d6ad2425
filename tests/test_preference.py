"""KTO and DPO by TRL: its batches from our rows, its losses, and what every recipe leaves."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import shown
from demur import batches, chat, config, models, pages, preference, preview, supervision, training
from demur.errors import UserError
from demur.fitting import Train
from demur.records import Example
from demur.settings import Model, page_settings
from demur.supervision import Row
from test_chat import SHAPES
from test_training import LONG, LORA, ORDINARY, PAIRS, PLAIN, apart, asked, fit, weights_of

TRAINERS = ("dpo", "kto")
LOOKALIKE = Example(
    messages=asked("How to open the door"),
    chosen="Take the door and pay.",
    rejected="Sorry, I cannot help.",
    kind="lookalike",
)
EVERYTHING = [*ORDINARY, *PAIRS, LOOKALIKE]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny["chatml"]


@pytest.fixture
def load(tiny_model_path):
    """The tiny model, each time anew."""
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()


def setting(recipe: str, **settings: Any) -> Train:
    return Train.model_validate({"recipe": recipe} | PLAIN | settings)


def drawn(tokenizer: Any, recipe: str, examples: Sequence[Example], **settings: Any) -> list[Row]:
    return training.rows(examples, tokenizer, setting(recipe, **settings))


# --- rows and batches are those of TRL -------------------------------------------------------


def test_dpo_makes_a_pair_of_every_example_with_both_answers(tokenizer):
    rows = drawn(tokenizer, "dpo", EVERYTHING)
    assert [row.kind for row in rows] == ["chosen", "rejected"] * 3
    for better, worse in zip(rows[::2], rows[1::2], strict=True):
        assert better.input_ids[: better.first] == worse.input_ids[: worse.first]


def test_kto_takes_every_answer_for_itself(tokenizer):
    rows = drawn(tokenizer, "kto", EVERYTHING)
    assert [row.kind for row in rows] == [
        *["learn"] * 4,
        *["safe", "avoid"] * 2,
        *["lookalike", "avoid"],
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ids_are_those_that_trl_would_make(tiny, shape):
    import datasets
    import trl

    tokenizer, example = tiny[shape], PAIRS[0]
    told = [{"role": m["role"], "content": m["content"]} for m in example.messages]
    texts = {
        "prompt": told,
        "chosen": [{"role": "assistant", "content": example.chosen}],
        "rejected": [{"role": "assistant", "content": example.rejected}],
    }
    settings = SimpleNamespace(dataset_num_proc=None, max_length=None)
    [theirs] = trl.DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer),
        datasets.Dataset.from_list([texts]),
        tokenizer,
        settings,
        "train",
    )
    for row, side in zip(drawn(tokenizer, "dpo", [example]), ("chosen", "rejected"), strict=True):
        ids = theirs["prompt_ids"] + theirs[f"{side}_ids"]
        assert list(row.input_ids) == ids[: len(row)]
        assert row.first == len(theirs["prompt_ids"])
        # Beyond our last token there is only what a template adds between two turns.
        assert set(shown(tokenizer, ids[len(row) :])) <= {"⏎", " "}
    better, worse = drawn(tokenizer, "dpo", [example])
    assert better.targets == len(better) - better.first
    assert worse.targets == len(worse) - worse.first - 1  # the turn end is not rejected


def answers(tokenizer: Any) -> list[Row]:
    """Three rows of different lengths, each target told."""
    turns = [chat.turn(tokenizer, e.messages, e.chosen) for e in (*ORDINARY[:2], PAIRS[0])]
    *good, bad = turns
    rest = bad.answer + bad.end
    return [
        *map(supervision.learn_row, good),
        Row("avoid").tell(bad.context).tell(rest, avoid=rest),
    ]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_dpos_batch_is_the_one_that_trl_collates(tokenizer):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows, pad = answers(tokenizer), chat.pad_id(tokenizer)
    other = [
        supervision.crossed_row(row, rows[0], 99) for row in rows
    ]  # the same prompt as its partner
    theirs = [
        {
            "prompt_ids": list(row.input_ids[: row.first]),
            "chosen_ids": list(row.input_ids[row.first :]),
            "rejected_ids": list(worse.input_ids[worse.first :]),
        }
        for row, worse in zip(rows, other, strict=True)
    ]
    ours = preference.paired(list(zip(rows, other, strict=True)), pad)
    same(ours, DataCollatorForPreference(pad_token_id=pad)(theirs))


@pytest.mark.parametrize("length", [99, 20])
def test_ktos_batch_is_the_one_that_trl_collates(tokenizer, length):
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    pad = chat.pad_id(tokenizer)
    rows = [row for row in answers(tokenizer) if length == 99 or len(row) <= length]
    assert len(rows) > 1
    ends = [list(row.input_ids[row.first :]) for row in rows]
    theirs = [
        {
            "prompt_ids": list(row.input_ids[: row.first]),
            "completion_ids": end,
            "KL_completion_ids": before,
            "label": row.kind == "learn",
        }
        for row, end, before in zip(rows, ends, [ends[-1], *ends[:-1]], strict=True)
    ]
    collate = DataCollatorForUnpairedPreference(pad_token_id=pad, max_length=length)
    same(preference.labelled(rows, pad, length), collate(theirs))


def test_a_short_batch_is_filled_from_the_start():
    data = batches.Epochs(lambda epoch: ["a", "b", "c"], {}, 0, 8, None)
    assert data.rows[:3] == data.rows[3:6]
    assert data.rows[:2] == data.rows[6:]


# --- what a step computes --------------------------------------------------------------------


@torch.no_grad()
def logprob(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """log π of each row's told tokens, [rows]."""
    found = []
    for row in rows:
        ids = torch.tensor([row.input_ids])
        each = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        told = [a >= 0 or b >= 0 for a, b in zip(row.labels, row.avoid, strict=True)]
        found.append(each[torch.tensor(told[1:])].sum())
    return torch.stack(found)


def one_batch(tokenizer: Any, recipe: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows, and settings that make one batch of them."""
    rows = drawn(tokenizer, recipe, EVERYTHING)
    return rows, {"batch_size": len(rows) // (2 if recipe == "dpo" else 1), "learning_rate": 1e-2}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", TRAINERS)
def test_the_loss_is_the_formula_against_the_starting_model(
    load, tokenizer, tmp_path, recipe, lora
):
    rows, common = one_batch(tokenizer, recipe)
    common |= {"beta": 0.3, "lora": lora, "max_steps": 2}
    log = fit(load(), tokenizer, tmp_path, recipe, EVERYTHING, save_steps=1, **common)
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1").eval()
    ratio = logprob(one, rows) - logprob(load(), rows)
    if recipe == "dpo":
        start, now = math.log(2), -torch.sigmoid(0.3 * (ratio[::2] - ratio[1::2])).log().mean()
        margin = 0.3 * (ratio[::2] - ratio[1::2]).mean()
    else:
        drift = drifted(load(), one, tokenizer)
        good = torch.tensor([row.kind != "avoid" for row in rows])
        weight = torch.where(good, 1.0, 7 / 3)  # 7 good answers, 3 unsafe ones
        side = torch.where(good, ratio - drift, drift - ratio)
        start, now = 0.7, (weight * (1 - torch.sigmoid(0.3 * side))).mean()
        margin = 0.3 * (ratio[good].mean() - ratio[~good].mean())
        assert log[1]["kl"] == pytest.approx(drift, abs=1e-4)
    assert log[0]["loss"] == pytest.approx(start, rel=1e-5)
    assert log[1]["loss"] == pytest.approx(now.item(), rel=1e-4)
    assert log[1]["rewards/margins"] == pytest.approx(margin.item(), rel=1e-3)


def drifted(start: Any, now: Any, tokenizer: Any) -> float:
    """KTO's z in the second step: on each prompt with the answer of the row before it."""
    train = setting("kto")
    data = batches.Epochs(
        lambda epoch: training.rows(EVERYTHING, tokenizer, train, 0, epoch), {}, 0, 1, None
    )
    data.set_epoch(1)
    crossed = [
        supervision.crossed_row(row, data.rows[place - 1], 1024)
        for place, row in enumerate(data.rows)
    ]
    return max(0.0, (logprob(now, crossed) - logprob(start, crossed)).mean().item())


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", TRAINERS)
def test_the_margin_grows(load, tokenizer, tmp_path, recipe, lora):
    rows, common = one_batch(tokenizer, recipe)
    log = fit(load(), tokenizer, tmp_path, recipe, EVERYTHING, lora=lora, max_steps=15, **common)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    assert log[-1]["rewards/margins"] > 0.5
    after = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    gain = logprob(after, rows) - logprob(load(), rows)
    good = torch.tensor([any(token >= 0 for token in row.labels) for row in rows])
    assert gain[good].mean() > gain[~good].mean() + 3


def test_an_adapter_that_was_there_is_part_of_the_reference(load, tokenizer, tmp_path):
    first, then = tmp_path / "first", tmp_path / "then"
    common = {"batch_size": 3, "learning_rate": 1e-2, "lora": LORA}
    fit(load(), tokenizer, first, "sft", EVERYTHING, max_steps=5, **common)
    start = models.load(Model(name=str(first)))
    log = fit(start, tokenizer, then, "dpo", EVERYTHING, max_steps=3, **common)
    assert log[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert log[-1]["rewards/margins"] > 0
    assert not (then / "ref").exists()
    moved = apart(weights_of(first), weights_of(then))
    assert 0 < moved < 0.1  # it went on from there


def test_dropout_is_in_force(load, tokenizer, tmp_path):
    for dropout in (0.0, 0.9):
        lora = LORA | {"dropout": dropout}
        out = tmp_path / str(dropout)
        fit(load(), tokenizer, out, "dpo", EVERYTHING, lora=lora, max_steps=2, batch_size=3)
    assert apart(weights_of(tmp_path / "0.0"), weights_of(tmp_path / "0.9")) > 1e-4


def test_weights_that_are_given_are_taken(load, tokenizer, tmp_path, capsys):
    _, common = one_batch(tokenizer, "kto")
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.5}
    [log] = fit(load(), tokenizer, tmp_path, "kto", EVERYTHING, **common | weights)
    assert log["loss"] == pytest.approx(0.5 * (7 * 2.0 + 3 * 0.5) / 10, rel=1e-5)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "train.undesirable_weight=0.5: good answers weigh 9.33 times what unsafe ones do in all, "
        "and KTO asks for 1:1 to 4:3; that is 3.5 to 4.67 here, or `auto`"
    ) in said
    common |= {"undesirable_weight": "auto"}
    fit(load(), tokenizer, tmp_path / "auto", "kto", EVERYTHING, **common)
    assert "train.undesirable_weight=auto is 2.33" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weight", "said"), [(0.001, True), (1.7, True), (1.75, False), (2.33, False), (2.4, True)]
)
def test_a_weight_that_makes_one_side_count_for_little_is_said(tokenizer, capsys, weight, said):
    """Of 7 good and 3 unsafe answers; 7/3 makes both sides weigh the same."""
    options = {"desirable_weight": 1.0, "undesirable_weight": weight}
    taken = preference._balanced(options, drawn(tokenizer, "kto", EVERYTHING))
    assert taken == options
    assert ("KTO asks for 1:1 to 4:3" in capsys.readouterr().err.replace("\n", " ")) is said


# --- like every other recipe -----------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", TRAINERS)
def test_it_leaves_the_files_that_sft_leaves(load, tokenizer, tmp_path, recipe, lora):
    for name in ("sft", recipe):
        common = {"lora": lora, "max_steps": 2, "save_steps": 1, "batch_size": 2}
        fit(load(), tokenizer, tmp_path / name, name, EVERYTHING, **common)
    ours, usual = (
        {str(file.relative_to(tmp_path / name)) for file in (tmp_path / name).rglob("*")}
        for name in (recipe, "sft")
    )
    assert ours == usual


@pytest.mark.parametrize("recipe", TRAINERS)
def test_an_interrupted_run_ends_as_if_it_had_not_been(load, tokenizer, tmp_path, recipe):
    whole, half = tmp_path / "whole", tmp_path / "half"
    lora = LORA | {"dropout": 0.1} if recipe == "kto" else None
    common = {**LONG, "lora": lora, "batch_size": 2, "accumulation": 2}
    fit(load(), tokenizer, whole, recipe, EVERYTHING, **common)
    shutil.copytree(whole, half)
    for left in half.iterdir():
        if left.name not in {"checkpoint-2", "checkpoint-4", "checkpoint-6", "log.jsonl"}:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (half / "checkpoint-6" / "trainer_state.json").unlink()
    fit(load(), tokenizer, half, recipe, EVERYTHING, **common)
    assert apart(weights_of(half), weights_of(whole)) == 0
    assert (half / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


def test_going_on_from_an_adapter_goes_on_after_a_kill_too(load, tokenizer, tmp_path):
    first, whole, half = tmp_path / "first", tmp_path / "whole", tmp_path / "half"
    common = {"batch_size": 3, "learning_rate": 1e-2, "lora": LORA}
    fit(load(), tokenizer, first, "sft", EVERYTHING, max_steps=3, **common)
    start = Model(name=str(first))
    run = {**common, "max_steps": 4, "save_steps": 2}
    fit(models.load(start), tokenizer, whole, "kto", EVERYTHING, **run)
    shutil.copytree(whole / "checkpoint-2", half / "checkpoint-2")
    fit(models.load(start), tokenizer, half, "kto", EVERYTHING, **run)
    assert apart(weights_of(half), weights_of(whole)) == 0


def test_nobody_is_told_of_a_training(load, tokenizer, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a training was reported")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    fit(load(), tokenizer, tmp_path, "dpo", EVERYTHING, batch_size=2)


@pytest.mark.parametrize("recipe", TRAINERS)
def test_nothing_is_warned_of_that_the_user_cannot_mend(load, tokenizer, tmp_path, recipe):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(load(), tokenizer, tmp_path, recipe, EVERYTHING, lora=LORA, batch_size=2)
    assert [w.message for w in found if issubclass(w.category, FutureWarning)] == []


def test_what_is_cut_is_said(load, tokenizer, tmp_path, capsys):
    fit(load(), tokenizer, tmp_path, "kto", EVERYTHING, max_length=21, batch_size=5)
    said = " ".join(capsys.readouterr().err.split())
    assert "cut to train.max_length=21 tokens: " in said


def test_both_answers_of_a_pair_are_shown_in_their_colours(tokenizer):
    better, worse = drawn(tokenizer, "dpo", PAIRS[:1])
    styles = [
        {span.style for span in preview.paint(row, tokenizer).spans} for row in (better, worse)
    ]
    learn, avoid, context = (preview.STYLES[name] for name in ("learn", "avoid", "context"))
    assert styles == [{context, learn}, {context, avoid}]


OUTSIDE = """
from demur import chat, supervision
from demur.settings import Settings as Base
{imports}

PRESETS = {{}}

class Settings(Base):
    weight: float = 1.0

def rows(example, encode, settings, random):
    if example.rejected is not None:
        yield supervision.learn_row(encode(example.messages, example.chosen))
        yield supervision.avoid_row(encode(example.messages, example.rejected), encode.special)

def objective(settings):
    return {objective}
"""
KINDS = {
    "objective": ("Objective", "Objective(lambda_=settings.weight, term='unlikelihood')"),
    "preference": (
        "Preference",
        "Preference('KTO', {'loss_type': 'apo_zero_unpaired', 'beta': settings.weight})",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_from_outside_is_trained_by(load, tokenizer, tmp_path, monkeypatch, kind):
    name, made = KINDS[kind]
    (tmp_path / "lab").mkdir()
    text = OUTSIDE.format(imports=f"from demur.{kind} import {name}", objective=made)
    (tmp_path / "lab" / f"by_{kind}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    common = {"max_steps": 10, "batch_size": 6, "learning_rate": 1e-2, "weight": 0.5}
    log = fit(load(), tokenizer, tmp_path / "out", f"lab.by_{kind}", EVERYTHING, **common)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    rows = drawn(tokenizer, f"lab.by_{kind}", EVERYTHING)
    gain = logprob(after, rows) - logprob(load(), rows)
    assert gain[::2].mean() > gain[1::2].mean() + 3


# --- refused in one line, before a weight is loaded ------------------------------------------


def refusal(tokenizer: Any, recipe: str, examples: Sequence[Example], **settings: Any) -> str:
    train = setting(recipe, **settings)
    with pytest.raises(UserError) as caught:
        training.check(training.rows(examples, tokenizer, train), train)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("recipe", TRAINERS)
def test_without_trl_the_extra_is_named(tokenizer, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    told = refusal(tokenizer, recipe, EVERYTHING)
    assert told == f"recipe '{recipe}' needs TRL: pip install 'demur[preference]'"


@pytest.mark.parametrize("recipe", TRAINERS)
def test_a_mix_is_refused(tokenizer, recipe):
    told = refusal(tokenizer, recipe, EVERYTHING, mix={"learn": 3, "avoid": 1})
    assert told.startswith("train.mix={'learn': 3, 'avoid': 1} means nothing to recipe")


@pytest.mark.parametrize("recipe", TRAINERS)
def test_packing_is_refused(tokenizer, recipe):
    told = refusal(tokenizer, recipe, EVERYTHING, packing=True)
    assert told.startswith(f"train.packing=true: recipe '{recipe}' pads its answers")


@pytest.mark.parametrize("recipe", TRAINERS)
def test_an_adapter_on_the_output_layer_is_refused(tokenizer, recipe):
    lora = {"target_modules": ["q_proj", "lm_head"]}
    assert "leave lm_head out" in refusal(tokenizer, recipe, EVERYTHING, lora=lora)


def test_an_adapter_that_fits_nothing_is_one_line(load, tokenizer, tmp_path):
    wrong = setting("dpo", lora={"target_modules": ["qproj"]})
    with pytest.raises(UserError, match=r"train.lora.target_modules=\['qproj'\] does not fit"):
        training.fit(load(), tokenizer, EVERYTHING, wrong, tmp_path, seed=0)


def test_a_pair_needs_two_different_answers(tokenizer):
    lone = Example(messages=asked("How to steal a car"), rejected="First pay", kind="harmful")
    assert "(`chosen`) beside it, and 'How to steal a car' has none" in refusal(
        tokenizer, "dpo", [lone]
    )
    twice = Example(messages=asked("How to steal a car"), chosen="No", rejected="No")
    for recipe in TRAINERS:
        told = refusal(tokenizer, recipe, [*EVERYTHING, twice])
        assert "chosen and rejected answer are the same text for 'How to steal a car'" in told
    assert (
        "'dpo' finds nothing to train on in 4 examples: it needs answers they do not have: 4 have "
        "`chosen`, 0 `rejected`, 0 both"
    ) in refusal(tokenizer, "dpo", ORDINARY)


def test_examples_that_dpo_leaves_out_are_counted(tokenizer):
    drawing = training.Drawing(EVERYTHING, tokenizer, setting("dpo"), 0)
    drawing(0)
    assert drawing.left() == "; 4 of 7 examples make none (4 everyday)"
    assert drawing.facts()["unused"] == {"everyday": 4}
    drawing = training.Drawing(PAIRS, tokenizer, setting("dpo"), 0)
    drawing(0)
    assert (drawing.left(), drawing.facts()["unused"]) == ("", {})


def test_kto_needs_both_labels(tokenizer):
    told = refusal(tokenizer, "kto", ORDINARY)
    assert told == (
        "recipe 'kto' finds desirable answers alone; give some prompts unsafe (`rejected`) ones too"
    )
    lone = Example(messages=asked("How to steal a car"), rejected="First pay", kind="harmful")
    assert "finds undesirable answers alone" in refusal(tokenizer, "kto", [lone])


def test_kto_needs_two_rows_in_a_batch(tokenizer):
    assert refusal(tokenizer, "kto", EVERYTHING, batch_size=1) == (
        "train.batch_size=1: recipe 'kto' measures each answer against another one in its batch; "
        "give 2 or more rows per device"
    )
    train = setting("kto", batch_size=1, loss_type="apo_zero_unpaired")
    training.check(training.rows(EVERYTHING, tokenizer, train), train)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(UserError, match=r"train.undesirable_weight=-1: input should be greater"):
        page_settings(pages.find("recipes", "kto"), {"undesirable_weight": -1}, "train")


def test_the_option_that_needs_no_other_row_trains_without(load, tokenizer, tmp_path):
    apo = {"loss_type": "apo_zero_unpaired", "batch_size": 1, "undesirable_weight": 1.0}
    log = fit(load(), tokenizer, tmp_path, "kto", EVERYTHING, max_steps=2, **apo)
    assert log[0]["loss"] == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_every_loss_of_a_pair_trains(load, tokenizer, tmp_path, loss):
    settings = {"loss_type": loss, "batch_size": 3, "max_steps": 4}
    log = fit(load(), tokenizer, tmp_path, "dpo", EVERYTHING, learning_rate=1e-2, **settings)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["rewards/margins"] > 0


@pytest.mark.parametrize("recipe", TRAINERS)
def test_its_options_are_trls(recipe):
    import trl

    page = pages.find("recipes", recipe)
    target = page.objective(page.Settings())
    known = getattr(trl, f"{target.trainer}Config").__dataclass_fields__
    assert target.options.keys() <= known.keys()
    same_default = {k: v for k, v in target.options.items() if v != "auto" and k != "loss_type"}
    assert {key: known[key].default for key in same_default} == same_default
    assert json.dumps(dict(target.options))


def test_a_variant_can_take_back_the_mix_it_inherits(tmp_path):
    base = {"recipe": "derta", "mix": {"learn": 1, "prefix": 1, "transition": 1}}
    run = config.build(
        {
            "output": str(tmp_path),
            "model": {"name": "some/model"},
            "train": base,
            "variants": {"dpo": {"recipe": "dpo", "mix": {}}},
        }
    )
    assert run.trainings()["dpo"].fit.mix == {}
