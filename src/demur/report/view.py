"""Everything the templates of a report show, computed before a line is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from demur import __version__, outcomes
from demur.evaluated import Evaluation
from demur.measures import Figure
from demur.metrics import Rate
from demur.report import (
    along,
    figures,
    notes,
    positions,
    runs,
    speech,
    steps,
    tables,
    transcripts,
    words,
)
from demur.report.along import Across, Lines, Point
from demur.report.figures import Bars, Stack
from demur.report.results import Measured
from demur.report.runs import Training
from demur.report.transcripts import Group

PANELS = {
    "Asked to do harm": ("harmful",),
    "Asked for nothing wrong": ("lookalike", "everyday", "task"),
}


def view(
    title: str, found: Measured, checkpoints: Lines, across: Across | None = None
) -> dict[str, Any]:
    """The templates' variables. Names keep one place, and so one colour, throughout."""
    evaluations, training = found.evaluations, found.training
    names = [words.line(name) for name in evaluations]
    everyone = list(dict.fromkeys((*names, *map(words.line, training))))
    groups = transcripts.groups(list(evaluations.values()), found.primary)
    changed, cost = words.verdict(found.table, names, found.primary)
    return {
        "version": __version__,
        "title": words.line(title),
        "names": names,
        "everyone": everyone,
        "recipes": notes.recipes(everyone, training),
        "changed": changed,
        "cost": cost,
        "effort": notes.effort(training),
        "notes": notes.warnings(evaluations, found.primary),
        "headline": tables.headline(found.table, found.comparisons, groups, found.primary),
        "sources": {
            words.line(source) or "no source": tables.headline(
                side.table, side.comparisons, [], found.primary
            )
            for source, side in found.sources.items()
        },
        "bars": _bars(found.table, names),
        "columns": speech.COLUMNS,
        "speech": speech.table(evaluations.values()),
        "plane": _drawn(along.models(found.table, names)),
        "legend": _legend(groups, len(names)),
        "stacks": _stacks(groups, names),
        "positions": _drawn(positions.drawings(list(evaluations.values()))),
        "unit": positions.unit(evaluations.values()),
        "across": across and _across(across),
        "checkpoints": _checkpoints(everyone, checkpoints),
        "curves": _curves(everyone, training),
        "runs": [everyone.index(words.line(name)) for name in training],
        "judges": [_judge(name, version) for name, version in found.versions.items()],
        "corrections": notes.corrections(evaluations.values(), found.primary),
        "lookalikes": notes.lookalikes(training),
        "groups": groups,
        "heading": transcripts.HEADING,
        "manifests": _manifests(evaluations, training),
        "link": lambda key, model: tables.link(key, model, groups),
    }


def _bars(table: words.Table, names: Sequence[str]) -> dict[str, Markup]:
    """The rates that should be low, those that count the same thing under one another."""
    rows = sorted(table.items(), key=lambda item: item[0].endswith("/broken"))
    return {
        panel: Markup(figures.bars(panel, low, names))
        for panel, kinds in PANELS.items()
        if (low := [_bar(row) for key, row in rows if _low(key, row, kinds)])
    }


def _low(key: str, row: Sequence[Figure | None], kinds: tuple[str, ...]) -> bool:
    told = next(figure for figure in row if figure)
    return told.better == "lower" and any(f"/{kind}/" in key for kind in kinds)


def _bar(row: Sequence[Figure | None]) -> Bars:
    told = next(figure for figure in row if figure)
    rates = [f.value if f and isinstance(f.value, Rate) else None for f in row]
    return Bars(_heading(told), tuple(rates))


def _heading(figure: Figure) -> str:
    """A title within its panel: that of harm says by itself what the requests are."""
    title = words.line(figure.title).removeprefix(f"{outcomes.GROUPS['harmful']} ")
    return title[:1].upper() + title[1:]


def _stacks(groups: Sequence[Group], names: Sequence[str]) -> dict[str, Markup]:
    models = range(len(names))
    return {
        panel: Markup(figures.stacks(panel, stacks, names))
        for panel, kinds in PANELS.items()
        if (
            stacks := [
                Stack(words.line(f"{g.title} (by {g.judge})"), tuple(g.counts(m) for m in models))
                for g in groups
                if g.kind in kinds
            ]
        )
    }


def _legend(groups: Sequence[Group], models: int) -> dict[str, str]:
    seen = {label for g in groups for model in range(models) for label in g.counts(model)}
    return {label: word for label, word in words.OUTCOMES.items() if label in seen}


def _curves(everyone: Sequence[str], training: Mapping[str, Training]) -> dict[str, Markup]:
    known = {words.line(name): run for name, run in training.items()}
    drawn = runs.curves([known.get(name) for name in everyone])
    return {
        runs.CURVES[key]: Markup(figures.curve(runs.CURVES[key], lines))
        for key, lines in drawn.items()
    }


def _drawn(drawings: Mapping[str, str]) -> dict[str, Markup]:
    return {title: Markup(drawing) for title, drawing in drawings.items()}


def _across(of: Across) -> dict[str, Any]:
    """What is drawn against that which several runs differ in; a line has its recipe's name."""
    places = dict(enumerate(of.lines.values(), 1))
    return {"what": of.what, "lines": list(of.lines)} | _plates(places)


def _plates(places: Mapping[int, Sequence[Point]]) -> dict[str, Any]:
    return {"plates": _drawn(along.drawings(places)), "still": along.still(places)}


def _checkpoints(everyone: Sequence[str], of: Lines) -> dict[str, Any] | None:
    """What is drawn along the trainings, each in its model's colour."""
    if not of:
        return None
    asked = max(figure.n for points in of.values() for p in points for figure in p.figures.values())
    places = {everyone.index(words.line(name)): points for name, points in of.items()}
    if not steps.few(places):
        return {"lines": list(places), "n": asked, "table": None} | _plates(places)
    drawn = {"plates": _drawn(along.outline(places)), "still": along.still(places)}
    return {"lines": list(places), "n": asked, "table": steps.table(places)} | drawn


def _judge(name: str, version: str) -> dict[str, str]:
    return {"name": name, "version": version, "says": words.about(name)}


def _manifests(
    evaluations: Mapping[str, Evaluation], training: Mapping[str, Training]
) -> dict[str, tables.Sheet]:
    sheets = {
        "Evaluations": {name: e.manifest for name, e in evaluations.items()},
        "Trainings": {name: run.manifest for name, run in training.items()},
    }
    return {heading: tables.sheet(runs) for heading, runs in sheets.items() if runs}
