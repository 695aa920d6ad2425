"""Answers that somebody saved, and the kind of request each is to, where somebody says that."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import get_args

from demur import records, sources
from demur.errors import UserError
from demur.records import Behavior, Completion, Example, Kind
from demur.rows import Row, rows
from demur.sources import benchmarks

QUESTIONS = ("question", "prompt")
ANSWERS = ("response", "completion", "answer")
KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


@dataclass(frozen=True, slots=True)
class Saved:
    """An answer as judges take it, and the ``kind`` of request it is to: None where nobody says.

    Its completion has to have a kind and is then of an everyday request; no judge reads that.
    """

    completion: Completion
    kind: Kind | None

    @property
    def group(self) -> str:
        return f"{self.completion.attack}/{self.kind or 'unknown'}"


def load(file: Path, kind: Kind | None = None) -> list[Saved]:
    """The answers of a file, in order; an empty one is there to be judged too.

    The kind is what a row names, or what its type says where that is one of XSTest's; else it is
    ``kind``. Raises UserError, with file and line, for a row without an answer.
    """
    found = rows(file)
    origin, first = next(found)
    if {"attempt", "behavior"} <= first.keys():
        return [Saved(answer, answer.kind) for answer in records.read(file, Completion)]
    if _asked(first) and _answered(first):
        return [_given(*each, kind) for each in chain([(origin, first)], found)]
    examples = sources.load(file)
    return [_of_example(file, example, "kind" in first, kind) for example in examples]


def _asked(row: Row) -> list[str]:
    return [key for key in QUESTIONS if isinstance(row.get(key), str)]


def _answered(row: Row) -> list[str]:
    return [key for key in ANSWERS if isinstance(row.get(key), str)]


def _given(origin: str, row: Row, kind: Kind | None) -> Saved:
    if not _asked(row) or not _answered(row):
        raise UserError(
            f"{origin}: a row needs a question ({' or '.join(QUESTIONS)}) and its answer "
            f"({', '.join(ANSWERS)}) as text; mend or delete it"
        )
    told = KINDS.get(str(row.get("kind"))) or benchmarks.xstest_kind(row)
    expected = row.get("expected")
    return _saved(
        row[_asked(row)[0]],
        row[_answered(row)[0]],
        told or kind,
        expected if isinstance(expected, str) else None,
    )


def _of_example(file: Path, example: Example, says: bool, kind: Kind | None) -> Saved:
    """An example whose row ``says`` nothing of its kind is an everyday one too."""
    text = example.chosen if example.chosen is not None else example.rejected
    if text is None:
        raise UserError(f"{file}: {example.prompt[:40]!r} has no answer to judge")
    told = says or example.kind != "everyday"
    return _saved(example.prompt, text, example.kind if told else kind)


def _saved(prompt: str, text: str, kind: Kind | None, expected: str | None = None) -> Saved:
    behavior = Behavior(prompt=prompt, kind=kind or "everyday")
    completion = Completion(
        attempt=behavior.id,
        behavior=behavior.id,
        kind=behavior.kind,
        attack="given",
        prompt=prompt,
        text=text,
        expected=expected,
    )
    return Saved(completion, kind)
