"""KTO, Kahneman-Tversky optimisation: good answers gain, unsafe ones lose, and none is paired.

    L = E λ_D (1 - σ(β (log π/π_ref - z)))   for a good answer
        E λ_U (1 - σ(β (z - log π/π_ref)))   for an unsafe one, in one mean over all

(Eq. 7 of arXiv 2402.01306, computed by TRL; a baseline of TA-SFT.) π_ref is the starting model, z
how far the model has drifted from it, measured on the batch's prompts with each other's answers:
a batch holds two rows at least. Of an unsafe answer its own tokens count, not the turn end:
collected ones are often cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from pydantic import Field, PositiveFloat

from demur.encoder import Encoder
from demur.preference import Preference
from demur.recipes._rows import avoided, learned
from demur.records import Example
from demur.settings import Settings as Base
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {}


class Settings(Base):
    """TRL's names."""

    beta: float = Field(0.1, gt=0, description="higher: stay nearer to the starting model")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto", description="KTO's own, or APO-zero, which leaves z out"
    )
    desirable_weight: float = Field(1.0, gt=0, description="λ_D, of good answers")
    undesirable_weight: PositiveFloat | Literal["auto"] = Field(
        "auto", description="λ_U, of unsafe ones; `auto`: both sides weigh the same in all"
    )


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn`, `lookalike` and `safe` for good answers, `avoid` for unsafe ones.

    Raises UserError for the same text as both.
    """
    yield from learned(example, encode, safe=True)
    yield from avoided(example, encode)


def objective(settings: Settings) -> Preference:
    return Preference("KTO", settings.model_dump())
