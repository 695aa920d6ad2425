"""Prefix rows alone: recover from the beginning of a harmful answer.

    L = -E log P(safe | prompt, unsafe_<k)

(DeRTa without its transitions, "recaug" in arXiv 2407.09121; and under another name the data of
arXiv 2406.05946, whose preset is ``qi``: half the prefixes are empty, the others 1 to 100 tokens
long.) The ``reference`` presets are DeRTa's scripts, as `derta` explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from demur.draws import Draws
from demur.encoder import Encoder
from demur.objective import Objective
from demur.recipes._prefixes import REFERENCE, REFERENCE_FULL, Prefixes, prefixed
from demur.recipes._rows import check, learned, need_harmful
from demur.records import Example
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {
    "qi": {"prefix_empty": 0.5, "prefix_max": 100},
    "reference": REFERENCE,
    "reference-full": REFERENCE_FULL,
}


class Settings(Prefixes):
    """How long the prefixes are."""


def rows(example: Example, encode: Encoder, settings: Settings, random: Draws) -> Iterator[Row]:
    """`learn` for ordinary answers, `prefix` for safe answers to harmful prompts.

    Raises UserError for an unsafe answer without a safe one, or the same text as both.
    """
    if not example.ready:
        yield from learned(example, encode)
    if example.ready and example.chosen is None:  # a transition row, which is not for here
        return
    if example.kind == "harmful" or example.ready:
        check(example)
        yield from prefixed(example, example.chosen or "", encode, settings, random)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without a prefix row: it would be `sft`."""
    need_harmful(rows, "recipe 'recaug'")


def objective(settings: Settings) -> Objective:
    return Objective(lambda_=0.0)
