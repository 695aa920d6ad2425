"""`jailbreakchat`: the question in a template that talks the model out of its rules.

Personas, an opposite mode, forced openings and their like, as people share them (Shen et al., "Do
Anything Now", arXiv 2308.03825; JailbreakChat in DeRTa, arXiv 2407.09121). The templates shipped
are mild ones of our own; those in the wild are read from a file or a folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from demur.attacks import _templates
from demur.attacks._files import shipped
from demur.attacks._templates import Template
from demur.errors import UserError
from demur.records import Attempt, Behavior, Kind, Message
from demur.settings import Settings as Base


class Settings(Base):
    """Which templates, and how many of them each question is put into."""

    templates: Path | None = Field(
        None, description="a file or a folder (JSONL, JSON, YAML); null takes demur's own"
    )
    k: int = Field(3, gt=0, description="templates a question, drawn without repetition")
    seed: int = Field(0, description="of the draw; a larger k keeps the smaller one's templates")
    append: bool = Field(False, description="put the question after a template without a slot")
    kinds: tuple[Kind, ...] = Field(("harmful",), description="kinds of prompt it is used on")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        templates(self)
        return self


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """``k`` attempts a behavior; the variant is the template's name.

    The mean over attempts and the best of a behavior's ``k`` are two numbers: report both. Raises
    UserError for templates that cannot be read or are fewer than ``k``.
    """
    known = templates(settings)
    drawn = {b.id: draw(known, b, settings) for b in behaviors if b.kind in settings.kinds}
    for template in known:
        for behavior in behaviors:
            if template in drawn.get(behavior.id, ()):
                asked = Message(role="user", content=template.fill(behavior.prompt))
                yield Attempt(
                    behavior=behavior.id,
                    attack="jailbreakchat",
                    variant=template.name,
                    messages=(asked,),
                )


def templates(settings: Settings) -> list[Template]:
    """The templates that are drawn from."""
    where = settings.templates or shipped("jailbreakchat.jsonl")
    found = _templates.load(where, settings.append)
    if len(found) < settings.k:
        raise UserError(
            f"jailbreakchat: k={settings.k}, but {where} has {len(found)} templates: "
            "draw fewer, or name more templates"
        )
    return found


def draw(known: Sequence[Template], behavior: Behavior, settings: Settings) -> list[Template]:
    """The behavior's own ``k``, whatever other behaviors are asked beside it."""
    order = random.Random(f"{settings.seed}:{behavior.id}").sample(known, len(known))
    return order[: settings.k]
