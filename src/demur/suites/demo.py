"""`demo`: the shipped questions, asked plainly and with a begun answer; harm estimated offline.

What `demur evaluate --model` asks of a model where no configuration says what to ask.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from demur.settings import Page
from demur.settings import Settings as Base
from demur.suites import _files


class Settings(Base):
    """How many questions, and who judges harm."""

    limit: int | None = Field(None, gt=0, description="questions of each kind; null: all")
    judges: tuple[Page, ...] = Field(
        (Page(name="harm"),), description="of harm, beside `refusal`, `broken` and `exact`"
    )


def tree(settings: Settings) -> dict[str, Any]:
    """The settings it stands for."""
    kinds = ("harmful", "lookalike", "everyday")
    heldout = {k: [{"where": f"demo:{k}.heldout", "limit": settings.limit}] for k in kinds}
    return {"data": {"heldout": heldout}, "evaluate": _files.judged(settings.judges)}
