"""Figures and comparisons as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from demur.metrics import Estimate
from demur.outcomes import Better
from demur.report import notes, words
from demur.report.compare import Comparison
from demur.report.results import Measured


def side_by_side(found: Measured) -> str:
    """Every measure: each model's figure, and beneath it how it differs from the first's."""
    wide = max(map(len, found.names))
    blocks = ["\n".join(_measure(found, key, wide)) for key in found.table]
    return "\n\n".join([*blocks, *_notes(found)])


def _measure(found: Measured, key: str, wide: int) -> Iterator[str]:
    row = found.table[key]
    told = next(figure for figure in row if figure)
    yield f"{words.line(told.title)} ({told.better} is better)"
    for name, figure, others in zip(found.names, row, found.comparisons, strict=True):
        yield f"  {words.line(name):<{wide}}  {figure.value if figure else 'not measured'}"
        if figure and figure.corrected:
            yield f"  {'':<{wide}}  {figure.corrected}"
        if figure and (one := others.get(key)):
            yield f"  {'':<{wide}}  {difference(one, told.better)}"


def difference(one: Comparison, better: Better) -> str:
    """ "−12.5 points [−20.1, −4.9] on 48, better; 7 only before, 1 only here, p = 0.07"."""
    size = _points(one.difference) if one.mcnemar else f"{one.difference} nats"
    said = f"{size} on {one.n}, {one.sense(better)}"
    if not (test := one.mcnemar):
        return said
    return f"{said}; {test.b} in the first alone, {test.c} here alone, p = {test.p:.2g}"


def _points(found: Estimate) -> str:
    value, low, high = (f"{100 * part:+.1f}" for part in (found.value, found.low, found.high))
    return f"{value} points [{low}, {high}]"


def _notes(found: Measured) -> Sequence[str]:
    told = notes.warnings(found.evaluations, found.primary)
    return ["\n".join(f"Note: {words.line(note)}" for note in told)] if told else []
