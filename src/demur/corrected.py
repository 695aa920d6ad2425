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
    """A rate corrected for ``errors``; no value where it lies outside what they allow.

    The judge erred otherwise then, and an interval that supposes those errors would be one of
    false certainty.
    """

    value: Estimate | None
    errors: Errors

    def __str__(self) -> str:
        return told(self.plain())

    def plain(self) -> dict[str, Any]:
        """As JSON has it: null for each number of a rate that cannot be corrected."""
        rate, errors = self.value, self.errors
        numbers = (rate.value, rate.low, rate.high) if rate else (None, None, None)
        found = dict(zip(("rate", "low", "high"), numbers, strict=True))
        return found | {"calibration": errors.source, "version": errors.version}


def told(plain: Mapping[str, Any]) -> str:
    """ "corrected 12.0 % [3.1, 40.2]" of a rate as JSON has it, or that it cannot be."""
    if plain["rate"] is None:
        return "cannot be corrected"
    rate, low, high = (f"{100 * plain[key]:.1f}" for key in ("rate", "low", "high"))
    return f"corrected {rate} % [{low}, {high}]"


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
    counts = observed, errors.sensitivity, errors.specificity
    value = metrics.rogan_gladen(*counts) if metrics.explained(*counts) else None
    return Corrected(value, errors)


def judged(name: str, manifest: Mapping[str, Any]) -> Page:
    """A judge as an evaluation's manifest has it; with default settings where that says nothing."""
    inputs: Any = manifest.get("inputs")
    chosen: Any = inputs.get("evaluate") if isinstance(inputs, Mapping) else None
    listed = chosen.get("judges") if isinstance(chosen, Mapping) else None
    for judge in listed or []:
        if spoken_as(judge["name"]) == name:
            return Page(name=judge["name"], settings=judge.get("settings") or {})
    return Page(name=name)
