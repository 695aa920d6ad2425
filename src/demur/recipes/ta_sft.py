"""TA-SFT: learn ordinary answers, and move away from the model's own unsafe ones.

    L = 1/N_learn Σ CE(answer) + λ · 1/N_avoid Σ avoid_term(unsafe answer)

(arXiv 2412.06843; its semantic loss is minus an Earth Mover Distance between what the model
would say and the unsafe token.) A few of the model's own unsafe answers are enough and no safe
answer is needed. Where safe answers are at hand, ``safe`` shows the model how to decline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from pydantic import Field

from demur.encoder import Encoder
from demur.objective import Avoidance, Objective, of
from demur.recipes._rows import avoided, learned, need_safe, need_unsafe
from demur.records import Example
from demur.supervision import Row

# As published: nothing stops the term, and no safe answer is learnt.
PRESETS = {"paper": {"term": "emd", "gate": None, "margin": None, "safe": False}}


class Settings(Avoidance):
    """The avoid term and its brakes."""

    safe: bool = Field(False, description="learn the safe answers to harmful prompts as well")


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn` for ordinary answers, `avoid` for unsafe ones, `safe` for safe ones if wanted."""
    yield from learned(example, encode, settings.safe)
    yield from avoided(example, encode)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without an unsafe answer, or without a safe one where these are wanted."""
    need_unsafe(rows, "recipe 'ta_sft'")
    if settings.safe:
        need_safe(rows, "train.safe=true")


def objective(settings: Settings) -> Objective:
    return of(settings)
