"""What every attack asks. An attack that searches keeps each step, and each search that is over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ConfigDict, TypeAdapter

from demur import records
from demur.records import Attempt, Behavior, fingerprint

FILE = "searches.jsonl"
UNFINISHED = "searching.json"
State = TypeVar("State")


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


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a search that is not over rests between two steps: a file, or nowhere."""

    path: Path | None = None
    search: str = ""

    def read(self, kind: type[State]) -> tuple[int, State] | None:
        """How many steps this very search has made and its state then, a dataclass of ``kind``."""
        try:
            found = json.loads(self.path.read_bytes()) if self.path else {}
        except FileNotFoundError:
            return None
        if found.get("search") != self.search:
            return None
        return found["steps"], TypeAdapter(kind).validate_python(found["state"])

    def write(self, steps: int, state: Any) -> None:
        """In one step: whoever is killed finds this state or the one before it."""
        if self.path:
            plain = TypeAdapter(type(state)).dump_python(state, mode="json")
            told = {"search": self.search, "steps": steps, "state": plain}
            records.replace(self.path, json.dumps(told))


NOWHERE = Kept()


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
    One that is not over rests in ``folder / UNFINISHED``: ``attack`` is given it as ``kept``.
    A page's setting ``seed`` that is None becomes the run's.

    Raises UserError for an attempt that ``target`` cannot be asked, before any search begins where
    no search had to find it.
    """
    chosen = [
        (page, _with_seed(settings, seed), [b for b in behaviors if not of or b.source in of])
        for page, settings, of in attacks
    ]
    at_once = {
        place: list(page.attack(asked, target, settings))
        for place, (page, settings, asked) in enumerate(chosen)
        if not hasattr(page, "searches")
    }
    target.check([attempt for found in at_once.values() for attempt in found])
    have = {s.search: s.attempts for s in records.resume(folder / FILE, Search)}
    found: list[Attempt] = []
    for place, (page, settings, asked) in enumerate(chosen):
        found += at_once.get(place, ())
        for group in page.searches(asked, settings) if place not in at_once else ():
            key = fingerprint(place, page.__name__, [behavior.id for behavior in group])
            if key not in have:
                kept = Kept(folder / UNFINISHED, key)
                have[key] = tuple(page.attack(group, target, settings, kept))
                records.append(folder / FILE, [Search(search=key, attempts=have[key])])
            found += have[key]
    (folder / UNFINISHED).unlink(missing_ok=True)
    return list({attempt.id: attempt for attempt in found}.values())


def _with_seed(settings: Any, seed: int) -> Any:
    own = getattr(settings, "seed", seed)
    return settings.model_copy(update={"seed": seed}) if own is None else settings
