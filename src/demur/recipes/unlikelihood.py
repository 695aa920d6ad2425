"""Unlikelihood: learn ordinary answers, and make unsafe tokens unlikely.

    L = 1/N_learn Σ CE(answer) - λ · 1/N_avoid Σ log(1 - P(unsafe_t | prompt, unsafe_<t))

(arXiv 1908.04319; a baseline of TA-SFT.) It ends by itself: as P falls so does its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from demur.encoder import Encoder
from demur.objective import Braked, Objective, of
from demur.recipes._rows import avoided, learned, need_unsafe
from demur.records import Example
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {}


class Settings(Braked):
    """The weight, and brakes it does not need; TA-SFT's can be tried."""


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn` for ordinary answers, `avoid` for unsafe ones."""
    yield from learned(example, encode)
    yield from avoided(example, encode)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without an unsafe answer: it would be `sft`."""
    need_unsafe(rows, "recipe 'unlikelihood'")


def objective(settings: Settings) -> Objective:
    return of(settings, term="unlikelihood")
