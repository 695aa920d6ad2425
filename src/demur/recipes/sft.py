"""Supervised fine-tuning: learn the answers to ordinary instructions.

    L = -1/N Σ log P(answer_t | prompt, answer_<t)

N counts the answers' tokens and turn ends. What may be lost by every other recipe is measured
against this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from demur.encoder import Encoder
from demur.objective import Objective
from demur.recipes._rows import learned
from demur.records import Example
from demur.settings import Settings as Base
from demur.supervision import Row

PRESETS: dict[str, dict[str, Any]] = {}


class Settings(Base):
    """Plain fine-tuning has no settings of its own."""


def rows(example: Example, encode: Encoder, settings: Settings, random: Random) -> Iterator[Row]:
    """A `learn` row for every ordinary answer."""
    return learned(example, encode)


def objective(settings: Settings) -> Objective:
    return Objective(lambda_=0.0)
