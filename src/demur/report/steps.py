"""Rates along few steps as a table: a line through two or three points shows less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demur.metrics import Rate
from demur.report import along
from demur.report.along import Point

FEW = 3


def few(of: Mapping[int, Sequence[Point]]) -> bool:
    """Whether the lines have too few points to be drawn."""
    return len({point.x for points in of.values() for point in points}) <= FEW


def table(of: Mapping[int, Sequence[Point]]) -> dict[str, Any]:
    """``heads``: place and x of every column; ``rows``: a rate with its interval in each."""
    heads = [(place, point.x) for place, points in of.items() for point in points]
    rows = {
        title: [_cell(dict(lines[place]).get(x)) for place, x in heads]
        for title, lines in along.moving(of).items()
    }
    return {"heads": [(place, f"{x:g}") for place, x in heads], "rows": rows}


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "–"
    return f"{100 * rate.rate:.1f} % ({100 * rate.low:.1f} – {100 * rate.high:.1f})"
