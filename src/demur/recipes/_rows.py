"""The rows that several recipes make."""

from __future__ import annotations

from collections.abc import Iterator

from demur import chat
from demur.errors import UserError
from demur.records import Example

# A row's kind is what `train.mix` gives a share of the batch to.
KINDS = {"everyday": "learn", "lookalike": "lookalike", "harmful": "safe"}


def learned(example: Example, encode: chat.Encoder, safe: bool = False) -> Iterator[chat.Row]:
    """`learn` and `lookalike` for harmless answers; if wanted `safe` for safe ones to the rest."""
    if example.chosen is not None and (safe or example.kind != "harmful"):
        turn = encode(example.messages, example.chosen, unfinished=example.unfinished)
        yield chat.learn_row(turn, KINDS[example.kind])


def avoided(example: Example, encode: chat.Encoder) -> Iterator[chat.Row]:
    """`avoid` for an unsafe answer."""
    if example.rejected is not None:
        yield chat.avoid_row(encode(example.messages, example.rejected), encode.special)


def check(example: Example) -> None:
    """Raises UserError for an unsafe answer without a safe one, or the same text as both."""
    if example.chosen is None:
        raise UserError(
            "an unsafe answer needs a safe answer (`chosen`) beside it; "
            f"{example.prompt[:50]!r} has none"
        )
    if example.chosen == example.rejected:
        raise UserError(f"safe and unsafe answer are the same text for {example.prompt[:50]!r}")
