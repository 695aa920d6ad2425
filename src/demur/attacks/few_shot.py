"""`few_shot`: the question after solved ones, given as earlier turns of the conversation.

No attack: the usual way to ask tasks (Brown et al., arXiv 2005.14165), by which a model learns the
form of the answer. The solved examples are the first of a file, never the question itself; only
tasks answered in the same form are asked, a number or a letter say, so that several sets can be
listed side by side, each with examples of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from demur import answers, sources
from demur.errors import UserError
from demur.records import Attempt, Behavior, Example, Kind, Message
from demur.settings import Settings as Base


class Settings(Base):
    """Which solved examples, and how many."""

    examples: str = Field(description="a file of tasks, e.g. GSM8K's training rows")
    shots: int = Field(5, gt=0, description="solved examples before each question")
    kinds: tuple[Kind, ...] = Field(("task",), description="kinds of prompt it is used on")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        solved(self)
        return self


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """One attempt a behavior (``k=5``)."""
    examples = solved(settings)
    for behavior in behaviors:
        if behavior.kind in settings.kinds and _alike(behavior, examples[0]):
            yield Attempt(
                behavior=behavior.id,
                attack="few_shot",
                variant=f"k={settings.shots}",
                messages=_turns(behavior, examples, settings.shots),
            )


def solved(settings: Settings) -> list[Example]:
    """One example more than needed, as one may be the question itself. Raises UserError."""
    found = sources.load(settings.examples, kind="task", limit=settings.shots + 1)
    examples = [example for example in found if example.chosen]
    if len(examples) <= settings.shots:
        raise UserError(
            f"few_shot.shots={settings.shots}: {settings.examples} has {len(examples)} solved "
            "examples, and one more than shots is needed; lower it or give a longer file"
        )
    return examples


def _alike(behavior: Behavior, example: Example) -> bool:
    right = behavior.answer if behavior.kind == "task" else None
    return right is None or answers.form(right) == answers.form(example.chosen or "")


def _turns(behavior: Behavior, examples: Sequence[Example], shots: int) -> tuple[Message, ...]:
    others = [example for example in examples if example.prompt != behavior.prompt][:shots]
    turns = [
        turn
        for example in others
        for turn in (
            Message(role="user", content=example.prompt),
            Message(role="assistant", content=example.chosen or ""),
        )
    ]
    return (*turns, Message(role="user", content=behavior.prompt))
