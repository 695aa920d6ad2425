"""`direct`: the question itself, in the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from demur.records import Attempt, Behavior, Kind, Message
from demur.settings import Settings as Base


class Settings(Base):
    """Which behaviors are asked."""

    kinds: tuple[Kind, ...] = Field(
        ("harmful", "lookalike", "everyday", "task"), description="kinds of prompt it is used on"
    )


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """One attempt a behavior."""
    for behavior in behaviors:
        if behavior.kind in settings.kinds:
            asked = Message(role="user", content=behavior.prompt)
            yield Attempt(behavior=behavior.id, attack="direct", messages=(asked,))
