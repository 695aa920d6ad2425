"""Evaluation and training folders, read and measured; and the same as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demur import __version__, evaluated
from demur.errors import UserError
from demur.evaluated import Evaluation
from demur.measures import Figure
from demur.metrics import Rate
from demur.report import notes, positions, runs, speech, tables
from demur.report.by_source import Side, by_source, side_by_side
from demur.report.compare import Comparison
from demur.report.runs import Training
from demur.report.words import Table


@dataclass(frozen=True, slots=True)
class Measured:
    """Evaluations by name with every figure, and how each compares with the first.

    ``table`` has a key and each evaluation's figure; ``comparisons`` are by key, one mapping for
    each evaluation, the first one's empty; ``sources`` has both for each source of several.
    ``training`` goes by the same names.
    """

    evaluations: Mapping[str, Evaluation]
    training: Mapping[str, Training]
    table: Table
    comparisons: Sequence[Mapping[str, Comparison]]
    sources: Mapping[str, Side]
    versions: Mapping[str, str]
    primary: str

    @property
    def names(self) -> list[str]:
        return list(self.evaluations)


def gather(
    evaluations: Mapping[str, Path],
    training: Mapping[str, Path],
    primary: str,
    force: bool,
) -> Measured:
    """Read and measure. Raises UserError for partial folders and, unless ``force``, for judges
    of different versions."""
    if not evaluations:
        raise UserError("no evaluation to report on: name at least one evaluation folder")
    loaded = {name: evaluated.load(folder) for name, folder in evaluations.items()}
    trained = {name: runs.load(folder) for name, folder in training.items()}
    versions = notes.judges(loaded, force)
    whole = side_by_side(list(loaded.values()), primary)
    parts = by_source(list(loaded.values()), primary)
    return Measured(loaded, trained, whole.table, whole.comparisons, parts, versions, primary)


def plain(found: Measured) -> dict[str, Any]:
    """What ``results.json`` holds."""
    unit = positions.unit(found.evaluations.values())
    models = {
        name: {
            **_plain(found.table, found.comparisons, place),
            "sources": {
                source: _plain(side.table, side.comparisons, place)
                for source, side in found.sources.items()
            },
            "first_refusal": positions.counts(evaluation, unit),
            "language": speech.plain(evaluation),
            "manifest": evaluation.manifest,
        }
        for place, (name, evaluation) in enumerate(found.evaluations.items())
    }
    return {
        "demur": __version__,
        "models": models,
        "chat_template": notes.template(found.evaluations),
        "judges": found.versions,
        "first_refusal_in": f"{unit}s",
        "primary": found.primary,
        "notes": notes.warnings(found.evaluations, found.primary),
    }


def _plain(
    table: Table, comparisons: Sequence[Mapping[str, Comparison]], place: int
) -> dict[str, Any]:
    against = {k: asdict(one) | {"clear": one.clear} for k, one in comparisons[place].items()}
    return {"figures": figures(row[place] for row in table.values()), "against_first": against}


def figures(found: Iterable[Figure | None]) -> dict[str, Any]:
    """Figures by their keys."""
    return {figure.key: _figure(figure) for figure in found if figure}


def _figure(figure: Figure) -> dict[str, Any]:
    value = figure.value
    about = {"title": figure.title, "group": figure.group, "better": figure.better}
    if isinstance(value, Rate):
        counts = {"k": value.k, "n": value.n, "unscored": value.unscored}
        rate = {"rate": tables.level(value), "low": value.low, "high": value.high} | counts | about
        return rate | ({"corrected": figure.corrected.plain()} if figure.corrected else {})
    return asdict(value) | {"n": figure.n} | about
