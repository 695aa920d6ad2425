"""What every attack asks. An attack that searches keeps each search as soon as it is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict

from demur import records
from demur.records import Attempt, Behavior, fingerprint

FILE = "searches.jsonl"


class Chosen(NamedTuple):
    """An attack's page and settings, and the sources of what it is used on (none: all)."""

    page: Any
    settings: Any
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one search came to: no attempt, one or several. A line is kept whole or not at all."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    search: str
    attempts: tuple[Attempt, ...]


def attempted(
    attacks: Iterable[Chosen],
    behaviors: Sequence[Behavior],
    target: Any,
    folder: Path,
    seed: int = 0,
) -> list[Attempt]:
    """The attempts of all attacks in order, each once even where two attacks agree.

    A page with ``searches(behaviors, settings)`` is asked for one group of behaviors at a time,
    and what it found is appended to ``folder / FILE``; a search that is there is not done again.
    A page's setting ``seed`` that is None becomes the run's.
    """
    have = {s.search: s.attempts for s in records.resume(folder / FILE, Search)}
    found: list[Attempt] = []
    for place, (page, settings, sources) in enumerate(attacks):
        mine = _with_seed(settings, seed)
        asked = [b for b in behaviors if not sources or b.source in sources]
        if hasattr(page, "searches"):
            for group in page.searches(asked, mine):
                key = fingerprint(place, page.__name__, [behavior.id for behavior in group])
                if key not in have:
                    have[key] = tuple(page.attack(group, target, mine))
                    records.append(folder / FILE, [Search(search=key, attempts=have[key])])
                found += have[key]
        else:
            found += page.attack(asked, target, mine)
    return list({attempt.id: attempt for attempt in found}.values())


def _with_seed(settings: Any, seed: int) -> Any:
    own = getattr(settings, "seed", seed)
    return settings.model_copy(update={"seed": seed}) if own is None else settings
