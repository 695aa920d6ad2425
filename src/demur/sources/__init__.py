"""Examples out of anybody's file: one page per data set or row format."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import get_args

from demur import pages
from demur.errors import UserError
from demur.records import Behavior, Example, Kind
from demur.rows import Row, rows
from demur.sources.demur import shipped


def load(
    where: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    kind: Kind | None = None,
    limit: int | None = None,
) -> list[Example]:
    """The examples of a file, a folder, a hub data set or the shipped ``demo:harmful.train``.

    ``format`` names a page of this folder (or a dotted module); left out, the first row's keys
    tell. ``kind`` is what a model should make of these prompts; where the rows themselves say
    that (XSTest, demur's own rows) it picks the rows of this kind. ``limit`` stops after so many
    examples. Raises UserError, with file and line, for the first row that cannot be read.
    """
    if kind is not None and kind not in get_args(Kind):
        raise UserError(pages.unknown("kind", kind, list(get_args(Kind))))
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: give a positive number, or leave it out to read all")
    name = str(where)
    demo = name.startswith("demo:")
    found = rows(shipped(name.removeprefix("demo:")) if demo else name, split)
    first = next(found)
    page = pages.find("sources", format) if format else detect(*first)
    read = chain.from_iterable(_convert(page, *each, kind) for each in chain([first], found))
    examples = list(islice(read, limit))
    if not examples:
        raise UserError(
            f"{where}: no {kind or 'single'} example in it; is it the right file and kind?"
        )
    source = name if demo or not Path(name).exists() else Path(name).name
    return [replace(example, source=example.source or source) for example in examples]


def detect(origin: str, row: Row) -> ModuleType:
    """The page this row belongs to. Raises UserError with its keys and the known formats."""
    known = pages.names("sources")
    fitting = [name for name in known if pages.find("sources", name).matches(row)]
    if len(fitting) == 1:
        return pages.find("sources", fitting[0])
    found = f"{origin}: the keys {', '.join(row)} fit {' and '.join(fitting) or 'no format'}"
    raise UserError(f"{found}; name it with format, one of: {', '.join(known)}")


def behaviors(examples: Iterable[Example]) -> list[Behavior]:
    """What is asked in each example, once; of a repeated question the one with an answer.

    A harmful example's ``rejected`` is the unsafe answer, a harmless one's ``chosen`` the good one.
    Raises UserError for a question with
    turns before it: a behavior is asked alone.
    """
    found: dict[str, Behavior] = {}
    for behavior in map(_behavior, examples):
        known = found.setdefault(behavior.id, behavior)
        if (known.unsafe or known.answer) is None:
            found[behavior.id] = behavior
    return list(found.values())


def overlap(
    train: Iterable[Example | Behavior], heldout: Iterable[Example | Behavior]
) -> list[str]:
    """Held-out prompts that training has too, but for case, spacing and punctuation."""
    seen = {normalised(item.prompt) for item in train}
    return list(dict.fromkeys(i.prompt for i in heldout if normalised(i.prompt) in seen))


def dedupe(examples: Iterable[Example]) -> list[Example]:
    """The first of all examples with the same normalised context and the very same answers."""
    first: dict[object, Example] = {}
    for example in examples:
        context = tuple((m["role"], normalised(m["content"])) for m in example.messages)
        first.setdefault((context, example.chosen, example.rejected), example)
    return list(first.values())


def normalised(prompt: str) -> str:
    """``prompt`` without the differences that make no other question: case, spaces, punctuation."""
    plain = unicodedata.normalize("NFKC", prompt).casefold()
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in plain)
    return " ".join(words.split()) or plain.strip()


def _convert(page: ModuleType, origin: str, row: Row, kind: Kind | None) -> Iterator[Example]:
    try:
        for example in page.examples(row, kind):
            _refuse_blanks(example)
            yield example
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _refuse_blanks(example: Example) -> None:
    turns = [(m["role"], m["content"]) for m in example.messages if m["role"] != "system"]
    for what, content in [*turns, ("chosen", example.chosen), ("rejected", example.rejected)]:
        if content is not None and not content.strip():
            raise UserError(f"the {what} text is blank; fill it in or take the row out")


def _behavior(example: Example) -> Behavior:
    if len(example.messages) != 1:
        raise UserError(f"{example.prompt!r:.60}: a behavior is one question with no turns before")
    harmful = example.kind == "harmful"
    if example.kind == "task" and example.chosen is None:
        raise UserError(
            f"{example.prompt!r:.60}: a task needs its right answer; bring it, or drop it"
        )
    return Behavior(
        prompt=example.prompt,
        kind=example.kind,
        category=example.category,
        topic=example.topic,
        unsafe=example.rejected if harmful else None,
        answer=None if harmful else example.chosen,
        pair=example.twin,
        source=example.source,
    )
