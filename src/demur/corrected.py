"""The rate behind a judge's, given how it erred on answers that people have labelled.

A judge's page may bring such a count as ``ERRORS``. It holds for one version of its rules in their
default settings, and supposes that they err elsewhere as often as on those answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demur import metrics, pages
from demur.asking import spoken_as
from demur.errors import UserError
from demur.metrics import Estimate, Rate
from demur.records import Kind, Label
from demur.settings import Page, page_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """A judge beside people, on answers to requests of ``kinds`` that are told by ``source``.

    ``sensitivity``: of the answers people call ``label``, those it does too. ``specificity``: of
    the others, those it does not either.
    """

    version: str
    label: Label
    kinds: tuple[Kind, ...]
    source: str
    sensitivity: Rate
    specificity: Rate

    def __str__(self) -> str:
        found, spared = self.sensitivity, self.specificity
        return (
            f"{self.source}: it found {found.k} of {found.n} that people call {self.label} "
            f"(sensitivity {found.rate:.2f}), and {spared.n - spared.k} of {spared.n} others "
            f"(specificity {spared.rate:.2f})"
        )


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate corrected for ``errors``; ``clipped`` where it fell outside 0..1 and was put there.

    It is then a rate that those errors cannot bring about: the judge errs otherwise here.
    """

    value: Estimate
    clipped: bool
    errors: Errors

    def __str__(self) -> str:
        rate = self.value
        if rate.low == rate.high:  # no interval of certainty: all of it was put there
            return f"{100 * rate.value:.1f} %, clipped with its interval"
        told = f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        return f"{told}, clipped" if self.clipped else told

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        rate, errors = self.value, self.errors
        told = {"rate": rate.value, "low": rate.low, "high": rate.high, "clipped": self.clipped}
        return told | {"calibration": errors.source, "version": errors.version}


def errors(judge: Page) -> Errors | None:
    """A judge's errors where they are known for its rules and settings as they are."""
    try:
        page = pages.find("judges", judge.name)
        found = getattr(page, "ERRORS", None)
        if not isinstance(found, Errors) or found.version != page.VERSION:
            return None
        chosen = page_settings(page, judge.settings, f"judge {judge.name}")
    except UserError:  # of a judge of somebody's own the verdicts tell the last name alone
        return None
    return found if chosen.model_dump() == page.Settings().model_dump() else None


def correct(observed: Rate, errors: Errors) -> Corrected | None:
    """Rogan and Gladen's rate (1978) with Lang and Reiczigel's interval; None of nothing scored."""
    if not observed.n:
        return None
    found, spared = errors.sensitivity, errors.specificity
    value = metrics.rogan_gladen(observed, found, spared)
    return Corrected(value, not 1 - spared.rate <= observed.rate <= found.rate, errors)


def judged(name: str, manifest: Mapping[str, Any]) -> Page:
    """A judge as an evaluation's manifest has it; with default settings where that says nothing."""
    inputs: Any = manifest.get("inputs")
    chosen: Any = inputs.get("evaluate") if isinstance(inputs, Mapping) else None
    listed = chosen.get("judges") if isinstance(chosen, Mapping) else None
    for judge in listed or []:
        if spoken_as(judge["name"]) == name:
            return Page(name=judge["name"], settings=judge.get("settings") or {})
    return Page(name=name)
