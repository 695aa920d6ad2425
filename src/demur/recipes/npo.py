"""NPO, negative preference optimisation: gradient ascent with a brake of its own.

    L = 1/N_learn Σ CE(answer) + λ · 1/N Σ (2/β) log(1 + (π(unsafe | prompt)/π_ref)^β)

(arXiv 2404.05868.) N counts unsafe answers, π_ref is the starting model: the term fades where an
answer has become much less likely than it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from pydantic import Field

from demur.encoder import Encoder
from demur.objective import Objective, Weighted, of
from demur.recipes._rows import avoided, learned, need_unsafe
from demur.records import Example
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {}


class Settings(Weighted):
    """The weight and the temperature."""

    beta: float = Field(0.1, gt=0, description="inverse temperature")


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn` for ordinary answers, `avoid` for unsafe ones."""
    yield from learned(example, encode)
    yield from avoided(example, encode)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without an unsafe answer: it would be `sft`."""
    need_unsafe(rows, "recipe 'npo'")


def objective(settings: Settings) -> Objective:
    return of(settings, term="npo")
