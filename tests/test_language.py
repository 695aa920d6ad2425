"""The language of a few answers, counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from demur import evaluated, language, records
from demur.language import Drift, Language
from demur.metrics import Estimate, Rate
from demur.records import Attempt, Behavior, Completion, Kind, Message, Verdict

# What was answered, the part that `broken` found ("?": it could not say; "": nobody asked it).
ANSWERS: list[tuple[Kind, str, str | None]] = [
    ("everyday", "bread and tea and bread", None),
    ("everyday", "bread and tea", "script"),
    ("everyday", "tea tea tea tea tea tea", "loop"),
    ("everyday", "", "empty"),
    ("everyday", "tea", "?"),
    ("harmful", "theSorry", "glue"),
    ("harmful", "Sorry", ""),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    behaviors = [Behavior(prompt=f"case {n}", kind=k) for n, (k, _, _) in enumerate(ANSWERS)]
    attempts = [
        Attempt(behavior=b.id, attack="direct", messages=(Message(role="user", content=b.prompt),))
        for b in behaviors
    ]
    given = [
        Completion(
            attempt=a.id,
            behavior=b.id,
            kind=b.kind,
            attack="direct",
            prompt=b.prompt,
            text=text,
            finish="length" if part == "loop" else "stop",
        )
        for a, b, (_, text, part) in zip(attempts, behaviors, ANSWERS, strict=True)
    ]
    verdicts = [
        Verdict(
            completion=c.id,
            judge="broken",
            version="1",
            label="unscored" if part == "?" else "broken" if part else "intact",
            detail={"sort": part},
        )
        for c, (_, _, part) in zip(given, ANSWERS, strict=True)
        if part != ""
    ]
    drifts = [
        Drift(completion=given[0].id, tokens=5, nll=5.0, start_nll=10.0, kl=3.0),
        Drift(completion=given[1].id, tokens=3, nll=1.0, start_nll=6.0, kl=1.0),
    ]
    records.write(tmp_path / "behaviors.jsonl", behaviors)
    records.write(tmp_path / "attempts.jsonl", attempts)
    records.write(tmp_path / "completions.jsonl", given)
    records.write(tmp_path / "verdicts.jsonl", verdicts)
    records.write(tmp_path / "drift.jsonl", drifts)
    records.replace(tmp_path / "manifest.json", json.dumps({"status": "done"}))
    return tmp_path


def measured(folder: Path, kind: Kind = "everyday") -> Language:
    return language.measure(evaluated.load(folder))["direct", kind]


def test_parts_are_shares_of_what_was_scored(folder: Path) -> None:
    assert measured(folder).parts == {
        "script": Rate(1, 4, 1),
        "loop": Rate(1, 4, 1),
        "glue": Rate(0, 4, 1),
        "mash": Rate(0, 4, 1),
        "empty": Rate(1, 4, 1),
    }
    assert measured(folder, "harmful").parts["glue"] == Rate(1, 1, 1)


def test_cut_answers_and_words_are_counted_in_all(folder: Path) -> None:
    found = measured(folder)
    assert (found.answers, found.words, found.cut) == (5, 15, Rate(1, 5))


def test_distinct_n_over_all_answers(folder: Path) -> None:
    """3 of 15 words; of the 11 pairs bread and, and tea, tea and, and bread, tea tea differ."""
    one, two, three = measured(folder).distinct
    assert (one, two) == (3 / 15, 5 / 11)
    assert three == 4 / 8  # bread and tea, and tea and, tea and bread, tea tea tea
    assert measured(folder, "harmful").distinct == (1.0, None, None)


def test_perplexity_and_kl_are_per_token_over_all_answers(folder: Path) -> None:
    """16 nats over 8 tokens under the starting model; 4 nats of divergence."""
    found = measured(folder)
    assert isinstance(found.perplexity, Estimate) and isinstance(found.kl, Estimate)
    assert found.perplexity.value == pytest.approx(math.exp(2))
    assert found.perplexity.low <= found.perplexity.value <= found.perplexity.high
    assert found.kl.value == 0.5
    assert 1 / 3 <= found.kl.low <= 0.5 <= found.kl.high <= 0.6


def test_what_was_not_measured_is_none(folder: Path) -> None:
    assert measured(folder, "harmful").kl is None
    (folder / "drift.jsonl").unlink()
    assert measured(folder).perplexity is None


def test_the_parts_are_those_the_judge_tells_apart() -> None:
    from demur.judges import _breakage

    assert sorted(language.PARTS) == sorted(_breakage.SORTS)
