"""Runs side by side: numbers by hand, and what may not be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import demur
from demur import manifest, metrics, records, report
from demur.errors import UserError
from demur.records import Attempt, Behavior, Completion, Label, Message, Verdict
from worlds import ANSWER, REFUSAL, attempts, behaviors, judged, lay, run

EVALUATE = {
    "attacks": [{"name": "direct", "settings": {}}],
    "judges": [{"name": "refusal", "settings": {}}, {"name": "broken", "settings": {}}],
    "decoding": {"max_new_tokens": 64, "batch_size": 16},
    "likelihood": True,
}


def harmful(count: int = 10) -> tuple[list[Behavior], list[Attempt]]:
    asked = [b for b in behaviors(count) if b.kind == "harmful"]
    return asked, [a for a in attempts(asked) if not a.variant]


def evaluated(folder: Path, declined: int, unsafe: int | None = None, **evaluate: Any) -> Path:
    """A run folder whose model declines the first so many of ten requests; returns the folder."""
    asked, tried = harmful()
    texts = [REFUSAL] * declined + [ANSWER] * (len(tried) - declined)
    inputs = {"evaluate": EVALUATE | evaluate}
    lay(folder / "evaluate" / "after", asked, tried, texts, inputs=inputs)
    if unsafe is not None:
        run(folder / "train" / "after", "derta", {"harmful": unsafe})
    return folder


def compared(*folders: Path, **more: Any) -> dict[str, Any]:
    return report.side_by_side(folders, **{"force": False} | more).plain()


def test_two_runs_by_hand(tmp_path: Path) -> None:
    """Of ten requests a declines 2 and b 9: seven flip, p = 2 / 2⁷."""
    a, b = evaluated(tmp_path / "a", 2), evaluated(tmp_path / "b", 9)
    found = compared(a, b)
    assert list(found["models"]) == ["a", "b"]
    assert found["models"]["a"]["against_first"] == {}
    refused = found["models"]["b"]["against_first"]["direct/harmful/refused"]
    assert refused["mcnemar"] == {"b": 0, "c": 7, "p": 2 / 2**7, "unscored": 0}
    assert (refused["n"], refused["clear"]) == (10, True)
    by_hand = metrics.newcombe([True] * 9 + [False], [True] * 2 + [False] * 8)
    assert refused["difference"] == {
        "value": pytest.approx(0.7),
        "low": by_hand.low,
        "high": by_hand.high,
    }


def test_lines_say_the_direction_only_of_what_is_not_chance(tmp_path: Path) -> None:
    a, b, c = (evaluated(tmp_path / name, n) for name, n in (("a", 2), ("b", 9), ("c", 3)))
    text = report.side_by_side([a, b, c], force=False).lines()
    [told] = [part for part in text.split("\n\n") if part.startswith("Harmful requests declined")]
    lines = told.split("\n")
    assert lines[1] == "  a  20.0 % [5.7, 51.0] (2/10)"
    assert lines[3].strip().startswith("+70.0 points [")
    assert lines[3].endswith("on 10, better; 0 in the first alone, 7 here alone, p = 0.016")
    assert "on 10, within chance; 0 in the first alone, 1 here alone, p = 1" in lines[5]


def test_several_ways_of_asking_one_thing_are_one_question(tmp_path: Path) -> None:
    """Twelve wordings of three requests are three questions: the interval has to be wide."""
    asked = harmful(3)[0]
    tried = [
        Attempt(
            behavior=b.id,
            attack="replay",
            messages=(Message(role="user", content=f"{b.prompt} {n}"),),
        )
        for b in asked
        for n in range(12)
    ]
    one = lay(tmp_path / "one", asked, tried, [ANSWER] * 36)
    two = lay(tmp_path / "two", asked, tried, [REFUSAL] * 24 + [ANSWER] * 12)
    found = compared(one, two)["models"]["two"]["against_first"]["replay/harmful/refused"]
    assert found["n"] == 36
    assert found["difference"] == {"value": pytest.approx(2 / 3), "low": 0, "high": 1}
    assert not found["clear"]


def test_attempts_worded_for_each_model_are_paired_by_what_is_asked(tmp_path: Path) -> None:
    asked = harmful(4)[0]

    def worded(by: str) -> list[Attempt]:
        return [
            Attempt(
                behavior=b.id,
                attack="mine",
                messages=(Message(role="user", content=f"{by}: {b.prompt}"),),
            )
            for b in asked
        ]

    one = lay(tmp_path / "one", asked, worded("x"), [ANSWER] * 4)
    two = lay(tmp_path / "two", asked, worded("y"), [REFUSAL, REFUSAL, ANSWER, ANSWER])
    found = compared(one, two)
    refused = found["models"]["two"]["against_first"]["mine/harmful/refused"]
    assert (refused["n"], refused["mcnemar"]["c"]) == (4, 2)
    assert "one and two were asked 0 of 8 attempts in common." in found["notes"]


def test_a_few_shared_wordings_do_not_stand_for_all(tmp_path: Path) -> None:
    """Of twenty requests two were worded alike for both models: all twenty are compared."""
    asked = harmful(20)[0]

    def worded(by: str) -> list[Attempt]:
        said = [b.prompt if n < 2 else f"{by}: {b.prompt}" for n, b in enumerate(asked)]
        return [
            Attempt(behavior=b.id, attack="mine", messages=(Message(role="user", content=text),))
            for b, text in zip(asked, said, strict=True)
        ]

    one = lay(tmp_path / "one", asked, worded("x"), [ANSWER] * 20)
    two = lay(tmp_path / "two", asked, worded("y"), [ANSWER] * 2 + [REFUSAL] * 18)
    found = compared(one, two)
    complied = found["models"]["two"]["against_first"]["mine/harmful/complied"]
    assert (complied["n"], complied["difference"]["value"]) == (20, pytest.approx(-0.9))
    assert not any("counterpart" in note for note in found["notes"])


def test_what_has_no_counterpart_is_told(tmp_path: Path) -> None:
    asked, tried = harmful(12)
    one = lay(tmp_path / "one", asked, tried, [ANSWER] * 12)
    two = lay(tmp_path / "two", asked[:10], tried[:10], [REFUSAL] * 10)
    found = compared(one, two, force=True)
    assert found["models"]["two"]["against_first"]["direct/harmful/refused"]["n"] == 10
    assert "Answers without a counterpart, in no difference: 2 of 12 of one." in found["notes"]


def test_the_judge_of_harm_is_chosen_or_the_one_of_the_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [evaluated(tmp_path / name, n) / "evaluate/after" for name, n in (("a", 2), ("b", 9))]
    for folder in folders:
        given = records.read(folder / "completions.jsonl", Completion)
        label: dict[str, Label] = {ANSWER: "harmful", REFUSAL: "safe"}
        told = [
            Verdict(completion=c.id, label=label[c.text], judge="harm", version="1") for c in given
        ]
        records.append(folder / "verdicts.jsonl", told)
    assert "direct/harmful/harmful" not in compared(*folders)["models"]["a/after"]["figures"]
    code, out, _ = demur(monkeypatch, capsys, "compare", *folders, "--judge", "harm", "--json")
    against = json.loads(out)["models"]["b/after"]["against_first"]["direct/harmful/harmful"]
    assert (code, against["difference"]["value"]) == (0, pytest.approx(-0.7))
    code, _, err = demur(monkeypatch, capsys, "compare", *folders, "--judge", "llm")
    assert code == 2 and "holds no verdict of the judge 'llm'" in err
    for folder in folders:
        manifest.note(folder, primary="harm")
    assert compared(*folders)["primary"] == "harm"


LLM = {"base_url": "http://h/v1", "model": "m", "rubric": "usefulness"}


def judges(**llm: Any) -> list[dict[str, Any]]:
    return [*EVALUATE["judges"], {"name": "llm", "settings": llm}]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        (
            {"judges": judges(**LLM)},
            {"judges": judges(**LLM | {"model": "n"})},
            "judge 'llm' has model 'm' and 'n'",
        ),
        (
            {"judges": judges(**LLM)},
            {"judges": judges(**LLM | {"rubric": "directive"})},
            "judge 'llm' has rubric 'usefulness' and 'directive'",
        ),
        (
            {},
            {"judges": [{"name": "refusal", "settings": {"opening": 50}}]},
            "judge 'refusal' has opening 350 and 50",
        ),
        (
            {},
            {"decoding": {"max_new_tokens": 512, "batch_size": 16}},
            "decoding has max_new_tokens 64 and 512",
        ),
        (
            {"attacks": [{"name": "prefill", "settings": {"tokens": [5]}}]},
            {"attacks": [{"name": "prefill", "settings": {"tokens": [9]}}]},
            "attack 'prefill' has tokens [5] and [9]",
        ),
    ],
    ids=["model", "rubric", "judge", "decoding", "attack"],
)
def test_what_was_measured_otherwise_is_refused_in_one_line(
    tmp_path: Path, one: dict[str, Any], two: dict[str, Any], why: str
) -> None:
    folders = evaluated(tmp_path / "a", 2, **one), evaluated(tmp_path / "b", 9, **two)
    with pytest.raises(UserError) as caught:
        compared(*folders)
    assert str(caught.value).startswith(f"a and b cannot be compared: {why}")
    assert "\n" not in str(caught.value)
    assert compared(*folders, force=True)["models"]["b"]["against_first"]


def test_what_moves_no_answer_is_no_difference(tmp_path: Path) -> None:
    """Batches, patience, and a default that one of the two wrote down."""
    said = [{"name": "refusal", "settings": {"opening": 350}}, EVALUATE["judges"][1]]  # type: ignore[index]
    llm = {"name": "llm", "settings": LLM}
    patient = {"name": "llm", "settings": LLM | {"timeout": 5, "retries": 0, "threshold": 0.5}}
    a = evaluated(tmp_path / "a", 2, judges=[*EVALUATE["judges"], llm])  # type: ignore[misc]
    b = evaluated(
        tmp_path / "b", 9, judges=[*said, patient], decoding={"max_new_tokens": 64, "batch_size": 1}
    )
    assert compared(a, b)["models"]["b"]["against_first"]


def test_how_many_a_judge_loaded_here_reads_at_a_time_is_no_difference(tmp_path: Path) -> None:
    local = {"model": {"name": "m"}, "max_new_tokens": 64}
    one, two = (judges(local=local | {"batch_size": size}) for size in (1, 8))
    a = evaluated(tmp_path / "a", 2, judges=one)
    assert compared(a, evaluated(tmp_path / "b", 9, judges=two))["models"]["b"]["against_first"]
    other = evaluated(tmp_path / "c", 9, judges=judges(local=local | {"max_new_tokens": 8}))
    with pytest.raises(UserError, match="judge 'llm' has local"):
        compared(a, other)


def test_other_questions_and_other_versions_are_refused(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", 2)
    asked, tried = harmful(12)
    other = lay(tmp_path / "other", asked, tried, [ANSWER] * 12)
    with pytest.raises(UserError, match=r"their questions differ \(10 of 12 in common\)"):
        compared(a, other)
    newer = evaluated(tmp_path / "newer", 2)
    given = records.read(newer / "evaluate/after/completions.jsonl", Completion)
    records.write(
        newer / "evaluate/after/verdicts.jsonl", [v for c in given for v in judged(c, "2")]
    )
    with pytest.raises(UserError, match=r"judge 'broken' has versions 1 and 2 in 'a', 'newer'"):
        compared(a, newer)
    assert compared(a, newer, force=True)["notes"]


def test_folders_get_names_that_tell_them_apart(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "x" / "run", 2), evaluated(tmp_path / "y" / "run", 9)
    assert list(compared(a, b)["models"]) == ["x/run", "y/run"]
    inner = [folder / "evaluate" / "after" for folder in (a, b)]
    assert list(compared(*inner)["models"]) == ["x/run/after", "y/run/after"]
    assert list(compared(a, inner[1])["models"]) == ["run", "after"]


def test_a_run_stands_for_the_only_evaluation_it_has(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "a", 2), evaluated(tmp_path / "b", 9)
    (b / "evaluate" / "after").rename(b / "evaluate" / "org-model")
    assert list(compared(a, b)["models"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("folders", "why"),
    [
        (["a"], "one folder alone cannot be compared: name two or more"),
        (["a", "none"], "no folder "),
        (["a", "a/evaluate/after"], "is named twice"),
        (["a", "empty"], "is no evaluation, and as a run it has no evaluate/after"),
        (["a", "half"], "is no evaluation, and as a run it has before, other: name the evaluation"),
    ],
)
def test_wrong_folders_are_one_line(
    tmp_path: Path,
    folders: list[str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated(tmp_path / "a", 2)
    (tmp_path / "empty").mkdir()
    for name in ("before", "other"):
        (tmp_path / "half" / "evaluate" / name).mkdir(parents=True)
    code, out, err = demur(monkeypatch, capsys, "compare", *(tmp_path / f for f in folders))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert why in err


def test_the_verb_prints_lines_or_json_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = evaluated(tmp_path / "a", 2), evaluated(tmp_path / "b", 9)
    code, out, _ = demur(monkeypatch, capsys, "compare", a, b)
    assert code == 0 and "+70.0 points" in out
    code, out, _ = demur(monkeypatch, capsys, "compare", a, b, "--json", "--out", tmp_path / "page")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "page" / "results.json").read_text("utf-8"))
    assert "<h1>a and b</h1>" in (tmp_path / "page" / "index.html").read_text("utf-8")


def test_the_likelihood_of_other_texts_is_not_compared(tmp_path: Path) -> None:
    """Each run's own starting model gave the answers: only those that both have are one figure."""
    asked, tried = harmful(4)
    mine = [replace(b, unsafe=f"First take {n}.") for n, b in enumerate(asked)]
    theirs = [*mine[:3], replace(mine[3], unsafe="Then wait.")]
    one = lay(tmp_path / "one", mine, tried, [ANSWER] * 4, nats={"harmful": 1.0})
    two = lay(tmp_path / "two", theirs, tried, [ANSWER] * 4, nats={"harmful": 1.5})
    nll = compared(one, two)["models"]["two"]["against_first"]["likelihood/unsafe_nll"]
    assert nll["n"] == 3


def test_rates_along_the_data(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path / f"n{n}", n // 50, unsafe=n) for n in (400, 50, 100)]
    found = compared(*runs, what="data")
    [(recipe, points)] = found["along"].items()
    assert recipe == "derta"
    rates = [point["figures"]["direct/harmful/refused"]["rate"] for point in points]
    assert [(point["x"], rate) for point, rate in zip(points, rates, strict=True)] == [
        (50, 0.1),
        (100, 0.2),
        (400, 0.8),
    ]
    page = report.side_by_side(runs, "data", force=False).write(tmp_path / "page")
    text = page.read_text("utf-8")
    drawing = text[text.index("Along unsafe training examples") :]
    svg = drawing[drawing.index("<svg") : drawing.index("</svg>")]
    assert all(f">{n}</text>" in svg for n in (50, 100, 400))


def test_an_untrained_model_is_where_the_data_begin(tmp_path: Path) -> None:
    asked, tried = harmful()
    start = lay(tmp_path / "start", asked, tried, [ANSWER] * 10, inputs={"evaluate": EVALUATE})
    found = compared(start, evaluated(tmp_path / "n50", 5, unsafe=50), what="data")
    assert [point["x"] for point in found["along"]["derta"]] == [0, 50]
    with pytest.raises(UserError, match="start has no training that could say"):
        compared(start, evaluated(tmp_path / "m", 5, unsafe=9), what="train.lambda")


def test_rates_along_a_setting(tmp_path: Path) -> None:
    runs = []
    for value in (0.5, 3):
        folder = evaluated(tmp_path / f"l{value}", 5, unsafe=50)
        manifest = folder / "train" / "after" / "manifest.json"
        told = json.loads(manifest.read_text("utf-8"))
        told["inputs"] = {"train": {"lambda": value, "recipe": "derta"}}
        records.replace(manifest, json.dumps(told))
        runs.append(folder)
    found = compared(*runs, what="train.lambda")
    assert [point["x"] for point in found["along"]["derta"]] == [0.5, 3]
    with pytest.raises(UserError, match=r"the training of l0\.5 has no such number"):
        compared(*runs, what="train.recipe")
    with pytest.raises(UserError, match="these runs do not differ in it"):
        compared(*runs, what="data")


def test_verdicts_are_not_made_up_for_the_position(tmp_path: Path) -> None:
    """A judge that says no place gives no histogram; one that does is counted by the word."""
    folder = evaluated(tmp_path / "a", 3) / "evaluate" / "after"
    other = evaluated(tmp_path / "b", 3)
    silent = [replace(v, detail={}) for v in records.read(folder / "verdicts.jsonl", Verdict)]
    records.write(folder / "verdicts.jsonl", silent)
    assert compared(folder, other)["models"]["after"]["first_refusal"] == {}
    given = records.read(folder / "completions.jsonl", Completion)
    starts = [0, 21, None]
    said = [
        Verdict(
            completion=c.id,
            label="complied" if start is None else "refused",
            judge="refusal",
            version="1",
            detail={"start": start},
        )
        for c, start in zip(given, [*starts, *[None] * 7], strict=True)
    ]
    records.append(folder / "verdicts.jsonl", said)
    counts = compared(folder, other)["models"]["after"]["first_refusal"]["direct"]
    assert {name: n for name, n in counts.items() if n} == {"1–5": 2, "none": 8}
