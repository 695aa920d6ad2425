"""Rates against something that several evaluations differ in: training data, or steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from demur import evaluated, language, measures
from demur.errors import UserError
from demur.evaluated import Evaluation
from demur.measures import Figure
from demur.metrics import Estimate, Rate
from demur.report import plots, results, twins, words
from demur.report.results import Measured
from demur.report.runs import Training

DATA = "data"
OVER, SAFE = "direct/lookalike/refused", "direct/harmful/refused"
RISING = ("/correct", "/told_apart")  # what is drawn though it should be high
DRIFTS = {
    "kl": "KL from the starting model, nats a token",
    "perplexity": "Perplexity of the answers under the starting model",
}
PLANE = "Harmful requests declined (up) against look-alikes declined (across)"


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of one evaluation by their keys, at ``x``; and how far it is from the start.

    ``drift`` goes by ``direct/everyday/kl``, and the same with ``perplexity``, where measured.
    """

    x: float
    figures: Mapping[str, Figure]
    drift: Mapping[str, Estimate] = field(default_factory=dict)


Lines = Mapping[str, Sequence[Point]]  # a line's name → its points, x rising


@dataclass(frozen=True, slots=True)
class Across:
    """What several runs differ in, and the lines drawn against it."""

    what: str
    lines: Lines


def checkpoints(folders: Mapping[str, Mapping[int, Path]], primary: str) -> dict[str, list[Point]]:
    """A line for each training: its evaluations by step. Raises UserError for a partial one."""
    return {
        name: [
            _point(step, evaluated.load(folder), primary) for step, folder in sorted(steps.items())
        ]
        for name, steps in folders.items()
    }


def _point(step: int, evaluation: Evaluation, primary: str) -> Point:
    figures = {figure.key: figure for figure in twins.measured(evaluation, primary)}
    return Point(step, figures, _drift(evaluation))


def _drift(evaluation: Evaluation) -> dict[str, Estimate]:
    return {
        f"{scenario}/{kind}/{name}": value
        for (scenario, kind), found in language.measure(evaluation).items()
        for name, value in (("kl", found.kl), ("perplexity", found.perplexity))
        if value
    }


def across(found: Measured, what: str) -> Across:
    """A line for each recipe, its evaluations as points; an untrained one is the start of all.

    ``what`` is ``data``, the number of unsafe training examples, or a setting of ``train``.
    Raises UserError where a training does not say, or all say the same.
    """
    made: dict[str, list[Point]] = {}
    start = [_of(found, name, _untrained(name, what)) for name in _plain(found)]
    for name, run in found.training.items():
        point = _of(found, name, value(name, run, what))
        made.setdefault(str(run.manifest.get("recipe", "trained")), []).append(point)
    lines = {name: sorted([*start, *points], key=lambda p: p.x) for name, points in made.items()}
    if not any(len({point.x for point in points}) > 1 for points in lines.values()):
        raise UserError(f"--along {what}: these runs do not differ in it: name some that do")
    return Across("unsafe training examples" if what == DATA else what, lines)


def _plain(found: Measured) -> list[str]:
    return [name for name in found.evaluations if name not in found.training]


def _of(found: Measured, name: str, x: float) -> Point:
    place = found.names.index(name)
    figures = {key: figure for key, row in found.table.items() if (figure := row[place])}
    return Point(x, figures, _drift(found.evaluations[name]))


def _untrained(name: str, what: str) -> float:
    if what == DATA:
        return 0.0
    raise UserError(f"--along {what}: {name} has no training that could say; leave it out")


def value(name: str, run: Training, what: str) -> float:
    """What a training's manifest says of ``what``. Raises UserError where it says nothing."""
    if what == DATA:
        found = run.manifest.get("unsafe", run.examples.get("harmful"))
    else:
        inputs: Any = run.manifest.get("inputs") or {}
        found = (inputs.get("train") or {}).get(what.removeprefix("train."))
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UserError(f"--along {what}: the training of {name} has no such number ({found!r})")
    return float(found)


def drawings(of: Mapping[int, Sequence[Point]]) -> dict[str, str]:
    """What is declined rightly against what wrongly; the drift; then rates along x that move.

    Lines go by the place of a model, whose colour they have.
    """
    rates = {title: plots.rates(title, lines) for title, lines in moving(of).items()}
    return outline(of) | rates


def outline(of: Mapping[int, Sequence[Point]]) -> dict[str, str]:
    """The same without the rates along x."""
    plane = {place: _plane(points) for place, points in of.items()}
    drawn = {PLANE: plots.plane(PLANE, plane)} if any(map(len, plane.values())) else {}
    return drawn | _drifts(of)


def moving(of: Mapping[int, Sequence[Point]]) -> dict[str, dict[int, list[tuple[float, Rate]]]]:
    """By title: each line of the rates that are not the same at every point."""
    return {
        title: {place: _rates(points, key) for place, points in of.items()}
        for key, title in _titles(of.values()).items()
        if len(_levels(of, key)) > 1
    }


def still(of: Mapping[int, Sequence[Point]]) -> list[str]:
    """The rates that are the same at every point of every line, and so are told in a line."""
    return [
        f"{title} {100 * rate:.1f} %"
        for key, title in _titles(of.values()).items()
        if len(levels := _levels(of, key)) == 1
        for rate in levels
    ]


def _levels(of: Mapping[int, Sequence[Point]], key: str) -> set[float]:
    return {rate.rate for points in of.values() for _, rate in _rates(points, key)}


def _drifts(of: Mapping[int, Sequence[Point]]) -> dict[str, str]:
    keys = dict.fromkeys(key for points in of.values() for point in points for key in point.drift)
    lines = {
        key: {
            n: [(p.x, p.drift[key]) for p in points if key in p.drift] for n, points in of.items()
        }
        for key in keys
    }
    return {title: plots.values(title, lines[key]) for key in keys for title in [_drifted(key)]}


def _drifted(key: str) -> str:
    """ "KL from the starting model, nats a token (everyday, direct)"."""
    scenario, kind, name = key.rsplit("/", 2)
    return words.line(f"{DRIFTS[name]} ({kind}, {measures.spoken(scenario)})")


def _titles(lines: Iterable[Sequence[Point]]) -> dict[str, str]:
    """Keys and titles of the rates that should be low, of tasks solved and pairs told apart."""
    every = [figure for points in lines for point in points for figure in point.figures.values()]
    drawn = [f for f in every if f.better == "lower" or f.key.endswith(RISING)]
    return {f.key: words.line(f.title) for f in drawn if isinstance(f.value, Rate)}


def _rates(points: Sequence[Point], key: str) -> list[tuple[float, Rate]]:
    return [(p.x, rate) for p in points if (rate := _rate(p, key))]


def _rate(point: Point, key: str) -> Rate | None:
    figure = point.figures.get(key)
    return figure.value if figure and isinstance(figure.value, Rate) and figure.n else None


def _plane(points: Sequence[Point]) -> list[tuple[str, Rate, Rate]]:
    return [
        (f"{point.x:g}", over, safe)
        for point in points
        if (over := _rate(point, OVER)) and (safe := _rate(point, SAFE))
    ]


def models(table: words.Table, names: Sequence[str]) -> dict[str, str]:
    """The same plane with each model as one point; nothing where none was asked both."""
    rows = [(name, _value(table, OVER, n), _value(table, SAFE, n)) for n, name in enumerate(names)]
    points = {n: (name, x, y) for n, (name, x, y) in enumerate(rows) if x and y}
    return {PLANE: plots.points(PLANE, points)} if points else {}


def _value(table: words.Table, key: str, place: int) -> Rate | None:
    figure = table[key][place] if key in table else None
    return figure.value if figure and isinstance(figure.value, Rate) and figure.n else None


def plain(lines: Lines) -> dict[str, list[dict[str, Any]]]:
    """The lines as JSON has them."""
    return {name: [_plainly(point) for point in points] for name, points in lines.items()}


def _plainly(point: Point) -> dict[str, Any]:
    drift = {key: asdict(value) for key, value in point.drift.items()}
    figures = results.figures(point.figures.values())
    return {"x": point.x, "figures": figures} | ({"drift": drift} if drift else {})
