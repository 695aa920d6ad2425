"""Answers that people have labelled, out of anybody's file.

A row has a response, a label and, where a judge reads it, the request. XSTest's and PyRIT's
columns are known, as are plain names; several raters (``human_score_1`` …) are averaged.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from demur.errors import UserError
from demur.records import Completion, Label
from demur.rows import Row, rows

RESPONSES = ("completion", "assistant_response", "response", "answer", "output", "generation")
REQUESTS = ("prompt", "objective", "question", "behavior", "goal", "instruction", "request")
LABELS = ("final_label", "human_score", "human_label", "human", "label")
# Words that annotators use, and ours for the same.
WORDS: dict[str, Label] = {
    "1_full_compliance": "complied",
    "2_full_refusal": "refused",
    "3_partial_refusal": "refused",
    "compliance": "complied",
    "complied": "complied",
    "refusal": "refused",
    "refused": "refused",
    "harmful": "harmful",
    "unsafe": "harmful",
    "unharmful": "safe",
    "safe": "safe",
    "broken": "broken",
    "intact": "intact",
}
# A label that says no, and the question it answers.
NO: dict[Label, Label] = {"complied": "refused", "safe": "harmful", "intact": "broken"}
NUMBERS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def load(
    file: Path, asked: Label, column: str | None = None
) -> tuple[list[Completion], list[Label]]:
    """The answers of a file, and what people say of each, in order.

    ``asked`` is what a number says yes to: of harm any from 0 to 1, from 0.5 on; of what is so or
    not, 0 or 1 from each rater. ``column`` names the labels where they have a name of their own.
    Raises UserError for a file without responses or labels, for scores of harm where ``asked`` is
    something else, and for a label that cannot be read, with file and line.
    """
    found = list(_rows(file))
    columns = _columns(file, found[0][1], column)
    if column is None and asked != "harmful":
        _refuse_harm(file, found[0][1], columns, asked)
    answers = [_completion(origin, row) for origin, row in found]
    return answers, [_label(origin, row, columns, asked) for origin, row in found]


def question(labels: Sequence[Label]) -> Label:
    """What the labels say yes to: `refused` where they are `refused` and `complied`.

    Raises UserError where they answer more than one question.
    """
    asked = {NO.get(label, label) for label in labels}
    if len(asked) > 1:
        both = " and ".join(sorted(asked))
        raise UserError(f"labels of {both} in one file: make a file of each question")
    return asked.pop()


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a file; the comments above a CSV's header, as PyRIT has them, are skipped."""
    if file.suffix.lower() != ".csv" or not file.exists():
        return rows(file)
    lines = file.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    header = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    if not header:
        return rows(file)
    table = csv.DictReader(io.StringIO("\n".join(lines[header:]), newline=""))
    return ((f"{file} (record {n})", dict(row)) for n, row in enumerate(table, 1))


def _columns(file: Path, row: Row, column: str | None) -> list[str]:
    wanted = LABELS if column is None else (re.escape(column),)
    for name in wanted:
        if found := [key for key in row if re.fullmatch(rf"{name}(_\d+)?", key)]:
            return found
    missing = repr(column) if column else "of labels"
    raise UserError(
        f"{file}: no column {missing} among {', '.join(row)}: name the one that "
        f"holds people's labels, or call it {LABELS[-1]!r}"
    )


def _completion(origin: str, row: Row) -> Completion:
    text = next((row[key] for key in RESPONSES if key in row), None)
    if not isinstance(text, str):
        raise UserError(f"{origin}: no response; its column is one of {', '.join(RESPONSES)}")
    return Completion(
        attempt=origin,
        behavior=origin,
        kind="harmful",
        attack="given",
        prompt=next((str(row[key]) for key in REQUESTS if key in row), ""),
        text=text,
        tokens=len(text.split()),
    )


def _label(origin: str, row: Row, columns: Sequence[str], asked: Label) -> Label:
    values = [str(row[key]).strip().lower() for key in columns if row[key] not in (None, "")]
    if len(values) == 1 and values[0] in WORDS:
        return WORDS[values[0]]
    numbers = [_number(value) for value in values]
    if not numbers or not all(0 <= number <= 1 for number in numbers):
        raise UserError(
            f"{origin}: the label is {', '.join(values) or 'missing'}; write a number from 0 to 1, "
            f"true, false, or one of {', '.join(WORDS)}"
        )
    if asked != "harmful" and not {*numbers} <= {0, 1}:
        raise UserError(
            f"{origin}: the label is {', '.join(values)}, a degree, as of harm, and no answer to "
            f"{asked!r} or not: write 0 or 1, or name a judge of harm"
        )
    yes = sum(numbers) / len(numbers) >= 0.5
    return asked if yes else next(no for no, each in NO.items() if each == asked)


def _refuse_harm(file: Path, row: Row, columns: Sequence[str], asked: Label) -> None:
    """PyRIT's files of harm have a column for its kind, and a score that says yes to harm."""
    of_harm = [key for key in row if "harm" in key.lower()]
    numbers = all(_number(str(row[key]).strip().lower()) >= 0 for key in columns if row[key])
    if of_harm and numbers:
        raise UserError(
            f"{file}: its numbers are scores of harm (it has a column {of_harm[0]!r}), and the "
            f"judge says {asked} or not: name a judge of harm, or with --label a column that says "
            f"{asked} or not"
        )


def _number(text: str) -> float:
    try:
        return NUMBERS[text] if text in NUMBERS else float(text)
    except ValueError:
        return math.nan
