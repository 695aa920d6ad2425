"""What suites share: where a file of theirs lies, and a judge of harm beside those of every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from demur.errors import UserError
from demur.settings import Page
from demur.settings import Settings as Base

JUDGES = ("refusal", "broken", "exact")


class Common(Base):
    """The data's folder, how much of it, and who judges harm."""

    folder: Path = Field(description="where the benchmark's files lie")
    limit: int | None = Field(None, gt=0, description="rows of every file; null: all")
    judges: tuple[Page, ...] = Field(
        (Page(name="harm"),),
        description="of harm, beside `refusal`, `broken` and `exact`; the published ones need an "
        "endpoint or a model, which is yours to name",
    )


def source(settings: Common, file: str, published: str, **more: str) -> dict[str, Any]:
    """A source of held-out data: the ``file`` (a name without ending) of the suite's folder.

    Raises UserError where it is missing, saying where it is ``published``.
    """
    path = find(settings.folder, file, published)
    return {"where": str(path), "name": file, "limit": settings.limit} | more


def find(folder: Path, file: str, published: str) -> Path:
    """``file.json``, or a part of it: ``file.first.json``. Raises UserError where it is missing."""
    there = sorted(folder.glob(f"{file}.json*")) + sorted(folder.glob(f"{file}.*.json*"))
    if not there:
        raise UserError(f"{folder / file}.json is missing: take it from {published}")
    return there[0]


def judged(judges: Sequence[Page]) -> dict[str, Any]:
    """The judges of a suite as settings: a judge named twice stands once, as it was set.

    The first that judges harm is the primary one.
    """
    set_ = [page.model_dump(exclude={"sources"}) for page in judges]
    given = [page.name for page in judges]
    primary = next((name for name in given if name not in JUDGES), "refusal")
    return {"judges": [name for name in JUDGES if name not in given] + set_, "primary": primary}
