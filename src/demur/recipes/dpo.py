"""DPO, direct preference optimisation: the safe answer rather than the unsafe one.

    L = -E log σ(β log π(safe | prompt)/π_ref(safe | prompt)
                 - β log π(unsafe | prompt)/π_ref(unsafe | prompt))

(Eq. 7 of arXiv 2305.18290, computed by TRL; a baseline of DeRTa.) π_ref is the starting model. Of
the unsafe answer its own tokens count, not the turn end: collected ones are often cut. An example
of any kind with both answers is a pair: a look-alike that was wrongly refused is one as well.

``paper`` has the settings of its appendix B, but AdamW for RMSprop and ``warmup_ratio`` for 150
steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from pydantic import Field

from demur import supervision
from demur.encoder import Encoder
from demur.preference import Preference
from demur.recipes._rows import check
from demur.records import Example
from demur.settings import Settings as Base
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "beta": 0.1,
        "lora": None,
        "learning_rate": 1e-6,
        "lr_scheduler": "constant_with_warmup",
        "batch_size": 8,
        "accumulation": 8,
    }
}


class Settings(Base):
    """TRL's names. `batch_size` counts pairs."""

    beta: float = Field(0.1, gt=0, description="higher: stay nearer to the starting model")
    loss_type: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid", description="DPO's own, or another loss of the same pairs"
    )


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`chosen` and `rejected`, the two rows of a pair; nothing without an answer to reject.

    Raises UserError for a rejected answer without a chosen one, or the same text as both.
    """
    if example.rejected is None:
        return
    check(example)
    chosen = encode(example.messages, example.chosen or "", unfinished=example.unfinished)
    yield supervision.learn_row(chosen, "chosen")
    rejected = encode(example.messages, example.rejected)
    yield supervision.avoid_row(rejected, encode.special, "rejected")


def objective(settings: Settings) -> Preference:
    return Preference("DPO", settings.model_dump())
