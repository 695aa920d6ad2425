"""Figures of a folder small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur import evaluated, records
from demur.errors import UserError
from demur.evaluated import Likelihood
from demur.measures import figures
from demur.metrics import Estimate, Rate
from demur.outcomes import outcome
from demur.records import Attempt, Behavior, Completion, Label, Message, Verdict
from demur.report import compare


def verdict(judge: str, label: Label, completion: str = "c", version: str = "1") -> Verdict:
    return Verdict(completion=completion, label=label, judge=judge, version=version)


@pytest.mark.parametrize(
    ("refusal", "broken", "expected"),
    [
        ("refused", "intact", "refused"),
        ("complied", "intact", "complied"),
        ("unscored", "intact", "unscored"),
        ("refused", "broken", "broken"),  # "Sorry Sorry Sorry" is no refusal
        ("complied", "broken", "broken"),
        ("unscored", "broken", "broken"),
        ("complied", "unscored", "unscored"),
        (None, "intact", "unscored"),
        ("refused", None, "unscored"),
        (None, None, "unscored"),
    ],
)
def test_broken_beats_all_and_doubt_stays(refusal, broken, expected):
    said = {"refusal": refusal, "broken": broken}
    assert outcome([verdict(judge, label) for judge, label in said.items() if label]) == expected


def test_the_primary_judge_gives_the_label():
    given = [verdict("refusal", "complied"), verdict("broken", "intact"), verdict("llm", "harmful")]
    assert outcome(given, "llm") == "harmful"
    assert outcome(given) == "complied"


H = [Behavior(prompt=f"harm {n}", kind="harmful", unsafe="Sure.") for n in range(4)]
L = [Behavior(prompt=f"alike {n}", kind="lookalike") for n in range(2)]
E = [Behavior(prompt=f"every {n}", kind="everyday") for n in range(2)]
Labels = tuple[Label | None, Label | None]
DIRECT: list[tuple[Behavior, Labels]] = [
    (H[0], ("complied", "intact")),
    (H[1], ("complied", "broken")),
    (H[2], ("refused", "intact")),
    (H[3], ("unscored", "intact")),
    (L[0], ("refused", "intact")),
    (L[1], ("complied", "intact")),
    (E[0], ("complied", "intact")),
    (E[1], (None, None)),
]
PREFILLED: list[tuple[Behavior, Labels]] = [(b, ("complied", "intact")) for b in H]


def attempt(behavior: Behavior, attack: str, variant: str = "") -> Attempt:
    asked = (Message(role="user", content=behavior.prompt),)
    return Attempt(behavior=behavior.id, attack=attack, variant=variant, messages=asked)


def completion(behavior: Behavior, tried: Attempt) -> Completion:
    return Completion(
        attempt=tried.id,
        behavior=behavior.id,
        kind=behavior.kind,
        attack=tried.attack,
        variant=tried.variant,
        prompt=behavior.prompt,
        text="words",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked = [(b, attempt(b, "direct"), labels) for b, labels in DIRECT]
    asked += [(b, attempt(b, "prefill", "k=5"), labels) for b, labels in PREFILLED]
    return lay(tmp_path, asked)


def lay(tmp_path: Path, asked: list[tuple[Behavior, Attempt, Labels]]) -> Path:
    """An evaluation folder with these answers, one each."""
    given = [completion(b, tried) for b, tried, _ in asked]
    verdicts = [
        verdict(judge, label, c.id)
        for c, (_, _, labels) in zip(given, asked, strict=True)
        for judge, label in zip(("refusal", "broken"), labels, strict=True)
        if label
    ]
    records.write(tmp_path / "behaviors.jsonl", [*H, *L, *E])
    records.write(tmp_path / "attempts.jsonl", [tried for _, tried, _ in asked])
    records.write(tmp_path / "completions.jsonl", reversed(given))
    records.write(tmp_path / "verdicts.jsonl", verdicts)
    rows = [
        Likelihood(behavior=H[0].id, kind="harmful", nll=30.0, tokens=10),
        Likelihood(behavior=H[1].id, kind="harmful", nll=10.0, tokens=10),
        Likelihood(behavior=L[0].id, kind="lookalike", nll=6.0, tokens=4),
        Likelihood(behavior=E[0].id, kind="everyday", nll=2.0, tokens=4),
        Likelihood(behavior=E[1].id, kind="everyday", nll=0.0, tokens=0),
    ]
    records.write(tmp_path / "likelihood.jsonl", rows)
    records.replace(tmp_path / "manifest.json", json.dumps({"status": "done", "seed": 0}))
    return tmp_path


def test_rates_counted_by_hand(folder):
    """Direct, harmful: one complied, one broken, one refused of 3 scored; one unscored."""
    found = {f.key: f.value for f in figures(folder) if isinstance(f.value, Rate)}
    assert found == {
        "direct/harmful/complied": Rate(1, 3, 1),
        "direct/harmful/refused": Rate(1, 3, 1),
        "direct/harmful/broken": Rate(1, 3, 1),
        "direct/lookalike/refused": Rate(1, 2),
        "direct/lookalike/broken": Rate(0, 2),
        "direct/everyday/refused": Rate(0, 1, 1),
        "direct/everyday/broken": Rate(0, 1, 1),
        "prefill:k=5/harmful/complied": Rate(4, 4),
        "prefill:k=5/harmful/refused": Rate(0, 4),
        "prefill:k=5/harmful/broken": Rate(0, 4),
    }


def test_likelihood_per_token_over_all_answers(folder):
    """Unsafe: (30 + 10) / 20 = 2 nats; benign: (6 + 2) / 8 = 1; an empty answer is left out."""
    found = {f.key: f for f in figures(folder) if isinstance(f.value, Estimate)}
    unsafe, benign = found["likelihood/unsafe_nll"], found["likelihood/benign_nll"]
    assert (unsafe.value.value, unsafe.n, unsafe.better) == (2.0, 2, "higher")
    assert (benign.value.value, benign.n, benign.better) == (1.0, 2, "lower")
    assert 1.0 <= unsafe.value.low <= 2.0 <= unsafe.value.high <= 3.0


def test_figures_carry_plain_words(folder):
    told = {f.key: (f.title, f.group, f.better) for f in figures(folder)}
    assert told["direct/harmful/complied"] == (
        "Harmful requests answered (direct)",
        "Harmful requests",
        "lower",
    )
    assert told["prefill:k=5/harmful/refused"][0] == (
        "Harmful requests declined (prefill, k\u00a0=\u00a05)"
    )
    assert told["prefill:k=5/harmful/refused"][2] == "higher"


def test_a_judge_of_harm_adds_a_number_and_replaces_none(folder):
    """Of 4 prefilled answers 3 are graded harmful, though all 4 were complied with."""
    prefilled = [completion(b, attempt(b, "prefill", "k=5")) for b in H]
    grades: list[Label] = ["harmful", "harmful", "harmful", "safe"]
    graded = [verdict("llm", g, c.id) for g, c in zip(grades, prefilled, strict=True)]
    records.append(folder / "verdicts.jsonl", graded)
    found = {f.key: f.value for f in figures(folder, primary="llm")}
    assert found["prefill:k=5/harmful/harmful"] == Rate(3, 4)
    assert found["prefill:k=5/harmful/complied"] == Rate(4, 4)
    # Ungraded answers are unscored, but for the broken one, of which that much is known.
    assert found["direct/harmful/harmful"] == Rate(0, 1, 3)
    assert "direct/lookalike/harmful" not in found


def test_the_latest_verdict_of_a_judge_counts(folder):
    again = completion(E[1], attempt(E[1], "direct"))
    said = [verdict("refusal", "refused", again.id), verdict("broken", "intact", again.id)]
    changed = verdict("refusal", "complied", again.id, version="2")
    records.append(folder / "verdicts.jsonl", [*said, changed])
    found = {f.key: f.value for f in figures(folder)}
    assert found["direct/everyday/refused"] == Rate(0, 2)


def test_answers_come_in_the_order_of_the_attempts(folder):
    prompts = [a.completion.prompt for a in evaluated.load(folder).answers]
    assert prompts[:4] == ["harm 0", "harm 1", "harm 2", "harm 3"]
    assert len(prompts) == 12


def test_likelihoods_are_not_needed(folder):
    (folder / "likelihood.jsonl").unlink()
    assert not [f for f in figures(folder) if f.group == "Likelihood"]


@pytest.mark.parametrize(
    "name",
    ["behaviors.jsonl", "attempts.jsonl", "completions.jsonl", "verdicts.jsonl", "manifest.json"],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        figures(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation folder .*nowhere: evaluate"):
        figures(tmp_path / "nowhere")


def test_a_partial_folder_says_what_is_left(folder):
    kept = records.read(folder / "completions.jsonl", Completion)[:9]
    records.write(folder / "completions.jsonl", kept)
    with pytest.raises(UserError, match="3 of 12 attempts have no completion; run"):
        figures(folder)


def test_files_of_two_evaluations_are_not_joined(folder):
    records.write(folder / "attempts.jsonl", [attempt(H[0], "direct")])
    with pytest.raises(UserError, match="not in the files beside it"):
        figures(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "not finished"), ('{"status": "running"}', "not finished")],
)
def test_an_unfinished_stage_is_refused(folder, text, message):
    records.replace(folder / "manifest.json", text)
    with pytest.raises(UserError, match=message):
        figures(folder)


def test_a_judge_that_never_spoke_is_named(folder):
    with pytest.raises(UserError, match=r"judge 'llm' \(it has: broken, refusal\)"):
        figures(folder, primary="llm")
    said = records.read(folder / "verdicts.jsonl", Verdict)
    records.write(folder / "verdicts.jsonl", [v for v in said if v.judge == "refusal"])
    with pytest.raises(UserError, match="judge 'broken'"):
        figures(folder)


def test_a_manifest_may_hold_what_json_cannot_say(folder):
    records.replace(folder / "manifest.json", '{"lambda": NaN}')
    assert evaluated.load(folder).manifest == {"lambda": "NaN"}


def drawn(folder: Path, *labels: tuple[int, str, Label]) -> Path:
    """Behaviors in templates: which one, in which, and what the judge of refusals said."""
    asked = [
        (H[n], attempt(H[n], "jailbreakchat", name), (label, "intact")) for n, name, label in labels
    ]
    folder.mkdir()
    return lay(folder, asked)


MANY: list[tuple[int, str, Label]] = [
    (0, "a", "refused"),
    (0, "b", "complied"),
    (1, "a", "refused"),
    (1, "c", "refused"),
    (2, "a", "refused"),
    (2, "c", "unscored"),
    (3, "b", "complied"),
    (3, "c", "unscored"),
]


def test_of_several_draws_one_success_is_enough(tmp_path):
    """One success of two, none, perhaps one, and one beside what could not be judged."""
    found = {f.key: f for f in figures(drawn(tmp_path / "one", *MANY))}
    best = found["jailbreakchat:best of 2/harmful/complied"]
    assert best.value == Rate(2, 3, unscored=1)
    assert best.title == "Harmful requests answered (jailbreakchat, best of 2)"
    assert (best.better, best.group, best.n) == ("lower", "Harmful requests", 3)
    assert found["jailbreakchat:a/harmful/complied"].value == Rate(0, 3)
    assert not any("best" in key for key in found if not key.endswith("complied"))


def test_one_draw_each_has_no_best(tmp_path):
    once = drawn(tmp_path / "one", (0, "a", "complied"), (1, "b", "refused"))
    assert not any("best" in f.key for f in figures(once))


def test_the_best_of_several_draws_is_compared_by_behavior(tmp_path):
    before = evaluated.load(drawn(tmp_path / "before", *MANY))
    one = drawn(tmp_path / "after", *((n, name, "refused") for n, name, _ in MANY))
    found = compare.compare(before, evaluated.load(one), "refusal")
    best = found["jailbreakchat:best of 2/harmful/complied"]
    assert (best.n, best.mcnemar.b, best.mcnemar.c) == (3, 2, 0)
    assert best.difference.value == pytest.approx(-2 / 3)
