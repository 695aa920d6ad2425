"""`replay`: prompts that an attack found before, from a file.

Reads JailbreakBench artifacts (``{"parameters": …, "jailbreaks": [{"goal", "prompt", …}]}``), test
files like DeRTa's (``{"question": …}``, one a row) and any other rows. Every prompt belongs to a
behavior of the run: the one its ``goal`` names, else the one it says in clear, or, with ``match:
order``, the one in the same place. To replay a file that says nothing of behaviors, give the same
file as held-out data: each of its prompts is then a behavior and its own attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from demur.attacks._files import text
from demur.errors import UserError
from demur.records import Attempt, Behavior, Kind, Message
from demur.rows import Row, rows
from demur.settings import Settings as Base
from demur.sources import normalised

Pairs = list[tuple[str | None, Behavior]]


class Settings(Base):
    """Which prompts, and how they find their behaviors."""

    file: str = Field(description="a JailbreakBench artifact, or rows (JSONL, JSON, CSV, …)")
    prompt: str | None = Field(None, description="key of the prompt; null: `prompt` or `question`")
    goal: str | None = Field(
        None, description="key of what is asked; null: `goal`, if rows have it"
    )
    match: Literal["text", "order"] = Field(
        "text", description="by what is asked, or the n-th prompt to the n-th behavior of `kinds`"
    )
    unmatched: Literal["refuse", "skip"] = Field(
        "refuse", description="what becomes of a prompt that no behavior asks for"
    )
    raw: bool = Field(False, description="send the prompts without a chat template")
    name: str | None = Field(None, description="the variant in tables; null: the file's name")
    kinds: tuple[Kind, ...] = Field(("harmful",), description="kinds of prompt it is used on")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        prompts(self)
        return self


class Found(NamedTuple):
    """A row of the file: where it stands, the prompt (None: the attack found none), the goal."""

    origin: str
    prompt: str | None
    goal: str | None


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """One attempt a prompt and its behavior; the same prompt twice is one attempt.

    A row whose prompt is null, as artifacts have it where the attack failed, makes none. Raises
    UserError for a file that cannot be read, and for prompts that no behavior asks for.
    """
    by = _by_order if settings.match == "order" else _by_text
    pairs = [
        (prompt, behavior)
        for prompt, behavior in by(prompts(settings), behaviors, settings)
        if prompt is not None and behavior.kind in settings.kinds
    ]
    for prompt, behavior in dict.fromkeys(pairs):
        yield Attempt(
            behavior=behavior.id,
            attack="replay",
            variant=settings.name or Path(settings.file).stem,
            messages=(Message(role="user", content=prompt),),
            raw=settings.raw,
        )


def prompts(settings: Settings) -> list[Found]:
    """Every row of the file. Raises UserError for one that is not readable, or if all are null."""
    found = [_found(origin, row, settings) for origin, row in _unpacked(settings.file)]
    if all(each.prompt is None for each in found):
        raise UserError(f"{settings.file}: every prompt in it is null; name a file that has some")
    return found


def _unpacked(file: str) -> Iterator[tuple[str, Row]]:
    for origin, row in rows(file):
        inner = row.get("jailbreaks")
        if isinstance(inner, list) and all(isinstance(each, dict) for each in inner):
            yield from ((f"{origin} (jailbreak {n})", each) for n, each in enumerate(inner, 1))
        else:
            yield origin, row


def _found(origin: str, row: Row, settings: Settings) -> Found:
    key = settings.prompt or ("prompt" if "prompt" in row else "question")
    goal = settings.goal or ("goal" if "goal" in row else None)
    failed = key in row and row[key] is None
    return Found(
        origin,
        None if failed else text(origin, row, key),
        None if goal is None else text(origin, row, goal),
    )


def _by_order(found: list[Found], behaviors: Sequence[Behavior], settings: Settings) -> Pairs:
    chosen = [behavior for behavior in behaviors if behavior.kind in settings.kinds]
    if len(found) != len(chosen):
        raise UserError(
            f"{settings.file}: {len(found)} prompts for {len(chosen)} behaviors of the kinds "
            f"{', '.join(settings.kinds)}: match=order needs as many"
        )
    return [(each.prompt, behavior) for each, behavior in zip(found, chosen, strict=True)]


def _by_text(found: list[Found], behaviors: Sequence[Behavior], settings: Settings) -> Pairs:
    asked = {normalised(behavior.prompt): behavior for behavior in behaviors}
    matched = [(each, _asked(each, asked)) for each in found if each.prompt is not None]
    lost = [each for each, behavior in matched if behavior is None]
    if len(lost) == len(matched) or (lost and settings.unmatched == "refuse"):
        raise UserError(
            f"{lost[0].origin}: none of the {len(behaviors)} behaviors asks this "
            f"({len(lost)} such prompts of {len(matched)}): add what they ask to data.heldout, or "
            "set match: order or unmatched: skip"
        )
    return [(each.prompt, behavior) for each, behavior in matched if behavior is not None]


def _asked(found: Found, asked: dict[str, Behavior]) -> Behavior | None:
    """The behavior of the goal; without one, the longest that the prompt says in clear."""
    if found.goal is not None:
        return asked.get(normalised(found.goal))
    said = f" {normalised(found.prompt or '')} "
    inside = [key for key in asked if f" {key} " in said]
    return asked[max(inside, key=len)] if inside else None
