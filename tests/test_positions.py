"""Where in an answer the first refusal stands, counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace

from demur import records, report
from demur.records import Completion
from demur.report import positions
from worlds import (
    answer,
    attempts,
    behaviors,
    results,
)


def test_positions_of_refusals_counted_by_hand(large, small, tmp_path):
    """`Sorry` begins after a text of so many words; what is broken is not counted."""
    after = results(report.build(small, tmp_path / "out"))["models"]["after"]
    told = after["first_refusal"]["direct"]
    assert {name: n for name, n in told.items() if n} == {"1–5": 2}
    page, root = large
    counts = json.loads((root / "report" / "results.json").read_text())["models"]["DeRTa"]
    broken = counts["figures"]["prefill:k=5/harmful/broken"]["k"]
    told = counts["first_refusal"]["prefill:k=5"]
    assert sum(told.values()) == 48 - broken
    assert told["1–5"] and told["> 30"] and told["none"]
    assert page.count("<figcaption>prefill, k = 5</figcaption>") == 1


def test_a_refusal_that_comes_late_stands_where_it_stands():
    def place(text: str, start: int, reach: tuple[int, ...] = ()) -> str:
        asked = behaviors(1)[0]
        said = replace(answer(attempts([asked])[0], asked, text, "m"), reach=reach)
        return positions._bin(said, start, "token" if reach else "word")

    text = "one two three four five six I cannot help with that."
    assert place(text, text.index("I cannot")) == "6–30"
    assert place("Sorry, no.", 0) == "1–5" == place("1 2 3 4 Sorry", 8)
    assert place("1 2 3 4 5 Sorry", 10) == "6–30"
    assert place("word " * 29 + "Sorry", 145) == "6–30"
    assert place("word " * 30 + "Sorry", 150) == "> 30"
    # The same texts where a word is several tokens, or many words fit in a few.
    assert place("Sorry, no.", 0, (2, 10)) == "1–5"
    assert place(text, text.index("I cannot"), (10, 20)) == "> 30"
    assert place(text, text.index("I cannot"), (28, 60)) == "6–30"
    assert place(text, text.index("I cannot"), (29, 60)) == "1–5"


def test_positions_are_in_tokens_where_all_answers_came_with_theirs(small, tmp_path):
    words_only = report.build(small, tmp_path / "words")
    assert results(words_only)["first_refusal_in"] == "words"
    assert "by the word of theirs" in words_only.read_text("utf-8")
    for folder in small.values():
        given = records.read(folder / "completions.jsonl", Completion)
        records.write(
            folder / "completions.jsonl",
            [replace(c, reach=(0, 10_000)) for c in given],
        )
    page = report.build(small, tmp_path / "tokens")
    assert results(page)["first_refusal_in"] == "tokens"
    assert "by the token of theirs" in page.read_text("utf-8")
    told = results(page)["models"]["after"]["first_refusal"]["direct"]
    assert {name: n for name, n in told.items() if n} == {"6–30": 2}
