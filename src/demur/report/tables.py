"""The tables of a report: measures against models, and what made each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.measures import Figure
from demur.metrics import Estimate, Rate
from demur.report import transcripts, words
from demur.report.compare import Comparison
from demur.report.transcripts import Group


@dataclass(frozen=True, slots=True)
class Change:
    """How a figure moved from the first model's, in words, and whether that is better.

    Only a comparison of pairs can say so: ``sense`` is empty without one, and within chance.
    """

    text: str = ""
    sense: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one model in words; ``link`` is the anchor of the answers it counts.

    ``corrected`` is the rate behind it, empty where the judge's errors are not known.
    """

    main: str
    interval: str
    count: str
    unscored: int
    change: Change
    link: str
    corrected: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One measure and a cell for each model, None where it was not measured.

    ``judge`` is the one whose word is counted, empty where none speaks.
    """

    title: str
    better: str
    judge: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Several manifests side by side: dotted keys and a value for each run."""

    names: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def by_key(of_models: Sequence[Sequence[Figure]]) -> dict[str, list[Figure | None]]:
    """Each figure's key → that figure of every model, None where a model lacks it."""
    keys = dict.fromkeys(figure.key for figures in of_models for figure in figures)
    known = [{figure.key: figure for figure in figures} for figures in of_models]
    return {key: [figures.get(key) for figures in known] for key in keys}


def headline(
    table: words.Table,
    comparisons: Sequence[Mapping[str, Comparison]],
    groups: Sequence[Group],
    primary: str,
) -> dict[str, list[Line]]:
    """Every measure of every model, by the group of measures it belongs to.

    ``comparisons`` holds, for each model, how its figures compare with the first model's.
    """
    lines: dict[str, list[Line]] = {}
    for key, row in table.items():
        told = next(figure for figure in row if figure)
        cells = tuple(
            _cell(figure, row[0], found.get(key), link(key, model, groups)) if figure else None
            for model, (figure, found) in enumerate(zip(row, comparisons, strict=True))
        )
        judge = transcripts.whose(key.rpartition("/")[2], primary) if key.count("/") > 1 else ""
        lines.setdefault(told.group, []).append(Line(told.title, told.better, judge, cells))
    return lines


def _cell(figure: Figure, first: Figure | None, found: Comparison | None, anchor: str) -> Cell:
    value = figure.value
    change = Change() if first is None or first is figure else _change(first, figure, found)
    if isinstance(value, Estimate):
        interval = f"{words.number(value.low)} – {words.number(value.high)}"
        count = words.many(figure.n, "answer")
        return Cell(words.number(value.value), interval, count, 0, change, "")
    count = f"{value.k} of {value.n}"
    if not value.n:
        return Cell("–", "", count, value.unscored, change, anchor)
    interval = f"{100 * value.low:.1f} – {100 * value.high:.1f} %"
    rate = f"{100 * value.rate:.1f} %"
    return Cell(rate, interval, count, value.unscored, change, anchor, _behind(figure))


def _behind(figure: Figure) -> str:
    return str(figure.corrected) if figure.corrected else ""


def link(key: str, model: int, groups: Sequence[Group]) -> str:
    """The anchor of the answers that a model's figure counts; empty if it counts none."""
    scenario, kind, label = key.rsplit("/", 2) if key.count("/") > 1 else ("", "", "")
    for group in groups:
        if (group.scenario, group.kind) == (scenario, kind):
            return f"{group.anchor}-{model}-{words.OUTCOMES[label]}"
    return ""


def _change(before: Figure, after: Figure, found: Comparison | None) -> Change:
    old, new = level(before.value), level(after.value)
    if old is None or new is None:
        return Change()
    by = abs(new - old)
    size = f"{100 * by:.1f} points" if isinstance(after.value, Rate) else words.number(by)
    said = f"{'=' if new == old else '▼' if new < old else '▲'} {size}"
    sense = found.sense(after.better) if found else "no pairs"
    clear = found is not None and found.clear
    return Change(f"{said}, {sense}", sense) if clear else Change(f"{said} ({sense})")


def level(value: Rate | Estimate) -> float | None:
    """The number itself, or None for a rate of which nothing was scored."""
    if isinstance(value, Estimate):
        return value.value
    return value.rate if value.n else None


def sheet(manifests: Mapping[str, Mapping[str, Any]]) -> Sheet:
    """Manifests side by side, sorted by key."""
    flat = [words.flat(manifest) for manifest in manifests.values()]
    keys = dict.fromkeys(key for rows in flat for key in rows)
    rows = {key: tuple(rows.get(key, "–") for rows in flat) for key in sorted(keys)}
    return Sheet(tuple(manifests), rows)
