"""The verdict of a judge that has a model: it names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from demur.records import Completion, Label, Verdict

ASKED = {"model", "rubric"}  # settings of which a verdict says what they were


def say(
    judge: str,
    version: str,
    completion: Completion,
    settings: BaseModel,
    label: Label,
    score: float | None,
    reason: str,
    detail: Mapping[str, Any],
) -> Verdict:
    return Verdict(
        completion=completion.id,
        label=label,
        judge=judge,
        version=version,
        score=score,
        reason=reason[:200],
        detail={**settings.model_dump(include=ASKED), **detail},
    )
