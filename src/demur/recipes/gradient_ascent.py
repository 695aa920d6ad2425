"""Gradient ascent: learn ordinary answers, and unlearn unsafe ones with the sign turned round.

    L = 1/N_learn Σ CE(answer) + λ · 1/N_avoid Σ log P(unsafe_t | prompt, unsafe_<t)

(A baseline of the unlearning literature, arXiv 2210.01504.) It has no bound: a cautionary tale.
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
    """The weight, and the brakes that the method itself lacks."""


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn` for ordinary answers, `avoid` for unsafe ones."""
    yield from learned(example, encode)
    yield from avoided(example, encode)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without an unsafe answer: it would be `sft`."""
    need_unsafe(rows, "recipe 'gradient_ascent'")


def objective(settings: Settings) -> Objective:
    return of(settings, term="gradient-ascent")
