"""`codeattack`: the words of the question lie in a data structure of a program to be completed.

The program has a `decode()` to write and a list of five steps to fill, so the request is never
said outright. CodeAttack (arXiv 2403.07865). The Python stack prompt is, to the byte, the one in
DeRTa's public test file (MIT; the words separated by spaces and pushed last to first); the other
structures and languages are ours, after the same plan, and their results are not comparable with
published ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

from pydantic import Field

from demur.attacks._files import shipped, texts
from demur.records import Attempt, Behavior, Kind, Message
from demur.settings import Settings as Base

Language = Literal["python", "cpp", "go"]
Structure = Literal["stack", "list", "string"]


class Settings(Base):
    """Which programs the question is hidden in."""

    languages: tuple[Language, ...] = Field(
        ("python",), min_length=1, description="`python`, `cpp`, `go`"
    )
    structures: tuple[Structure, ...] = Field(
        ("stack",), min_length=1, description="`stack`, `list`, `string`"
    )
    kinds: tuple[Kind, ...] = Field(("harmful",), description="kinds of prompt it is used on")


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """One attempt a behavior, language and structure (variant ``python-stack``)."""
    chosen = [behavior for behavior in behaviors if behavior.kind in settings.kinds]
    for language in dict.fromkeys(settings.languages):
        for structure in dict.fromkeys(settings.structures):
            for behavior in chosen:
                asked = program(behavior.prompt, language, structure)
                yield Attempt(
                    behavior=behavior.id,
                    attack="codeattack",
                    variant=f"{language}-{structure}",
                    messages=(Message(role="user", content=asked),),
                )


def program(question: str, language: Language, structure: Structure) -> str:
    """The prompt that hides ``question``; its words are what white space separates."""
    push, text = _templates()[language, structure]
    literals = (json.dumps(word, ensure_ascii=False) for word in words(question, structure))
    return text.replace("{words}", "".join(push.replace("{word}", word) for word in literals))


def words(question: str, structure: Structure) -> list[str]:
    """The elements in the order they are put in: a stack gives them back in reverse."""
    found = question.split()
    return {"stack": found[::-1], "list": found, "string": [" ".join(found)]}[structure]


@cache
def _templates() -> dict[tuple[str, ...], tuple[str, str]]:
    rows = texts(shipped("codeattack.jsonl"), "language", "structure", "push", "text")
    return {(language, structure): (push, text) for language, structure, push, text in rows}
