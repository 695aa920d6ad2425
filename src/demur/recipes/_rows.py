"""The rows that several recipes make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from demur import supervision
from demur.encoder import Encoder
from demur.errors import UserError
from demur.records import Example
from demur.supervision import IGNORE, Row

# A row's kind is what `train.mix` gives a share of the batch to.
KINDS = {"everyday": "learn", "lookalike": "lookalike", "harmful": "safe"}


def learned(example: Example, encode: Encoder, safe: bool = False) -> Iterator[Row]:
    """`learn` and `lookalike` for harmless answers; if wanted `safe` for safe ones to the rest.

    Raises UserError for an example whose chosen answer is the rejected one as well, used or not.
    """
    differing(example)
    if example.chosen is not None and (safe or example.kind != "harmful"):
        turn = encode(example.messages, example.chosen, unfinished=example.unfinished)
        yield supervision.learn_row(turn, KINDS[example.kind])


def avoided(example: Example, encode: Encoder) -> Iterator[Row]:
    """`avoid` for an answer that is rejected: an unsafe one, or the wrongful refusal of a pair."""
    if example.rejected is not None:
        yield supervision.avoid_row(encode(example.messages, example.rejected), encode.special)


def check(example: Example) -> None:
    """Raises UserError for an unsafe answer without a safe one, or the same text as both."""
    if example.chosen is None:
        raise UserError(
            "an unsafe answer needs a safe answer (`chosen`) beside it, and "
            f"{example.prompt[:50]!r} has none: bring it, or have it made by `collect.safe`"
        )
    differing(example)


def differing(example: Example) -> None:
    """Raises UserError where both answers are the same text, but for space around it."""
    if example.chosen is None or example.rejected is None:
        return
    if example.chosen.strip() == example.rejected.strip():
        raise UserError(
            f"chosen and rejected answer are the same text for {example.prompt[:50]!r}: it cannot "
            "be both, take one of them out"
        )


def need_harmful(rows: Sequence[Row], who: str) -> None:
    """Raises UserError where ``who`` is to decline and no row shows it how."""
    if not any(row.kind in ("prefix", "transition") for row in rows):
        raise UserError(
            f"{who} learns to decline from safe answers to harmful prompts and finds none: bring "
            "some (`chosen`) under data.train.harmful, or have them made by `collect.safe`"
        )


def need_unsafe(rows: Sequence[Row], who: str) -> None:
    """Raises UserError where ``who`` is to move away from unsafe answers and none is there."""
    if not any(token != IGNORE for row in rows for token in row.avoid):
        raise UserError(
            f"{who} moves away from unsafe answers and finds none: bring some (`rejected`) under "
            "data.train.harmful, or prompts there for `collect` to ask; without, it is sft"
        )


def need_safe(rows: Sequence[Row], who: str) -> None:
    """Raises UserError where ``who`` is to learn safe answers and none is there."""
    if not any(row.kind == KINDS["harmful"] for row in rows):
        raise UserError(
            f"{who} learns safe answers to harmful prompts and finds none: bring some (`chosen`), "
            "or have them made by `collect.safe`"
        )
