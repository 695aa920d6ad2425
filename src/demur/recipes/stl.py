"""STL: instructions, and a few hundred safe answers to harmful ones among them.

    L = -1/N Σ log P(answer_t | prompt, answer_<t)

(Safety-Tuned LLaMAs, arXiv 2309.07875; a baseline of both TA-SFT and DeRTa, which calls it
vanilla safety training.) How many safe answers is a matter of the data, or of ``mix``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from demur.encoder import Encoder
from demur.objective import Objective
from demur.recipes._rows import learned, need_safe
from demur.records import Example
from demur.settings import Settings as Base
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {}


class Settings(Base):
    """Safety tuning has no settings of its own."""


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """`learn` rows for ordinary answers, `safe` rows for safe ones."""
    return learned(example, encode, safe=True)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without a safe answer: it would be `sft`."""
    need_safe(rows, "recipe 'stl'")


def objective(settings: Settings) -> Objective:
    return Objective(lambda_=0.0)
