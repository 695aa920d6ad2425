"""The drawings with two axes beside the training curves: rates along something, and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demur.metrics import Estimate, Rate
from demur.report import figures, labels

LARGE = 20  # times the smallest x: from here on the axis is logarithmic
TICKS = 6
LABEL = 8.0  # how high a point's label stands, in per cent of the drawing
Points = Sequence[tuple[float, Rate]]


def rates(title: str, lines: Mapping[int, Points]) -> str:
    """A rate in per cent against x, with its 95 % intervals: a line for each place."""

    def draw(axes: Any) -> None:
        for place, points in lines.items():
            figures.line(axes, place, [x for x, _ in points], [100 * r.rate for _, r in points])
            for x, rate in points:
                figures.dot(axes, place, x, 100 * rate.rate)
                _whisker(axes, place, [x, x], [100 * rate.low, 100 * rate.high])
        _across(axes, sorted({x for points in lines.values() for x, _ in points}))
        _percent(axes)

    return figures.plot(title, draw)


def values(title: str, lines: Mapping[int, Sequence[tuple[float, Estimate]]]) -> str:
    """A number in its own unit against x, with its 95 % intervals: a line for each place."""

    def draw(axes: Any) -> None:
        for place, found in lines.items():
            figures.line(axes, place, [x for x, _ in found], [one.value for _, one in found])
            for x, one in found:
                figures.dot(axes, place, x, one.value)
                _whisker(axes, place, [x, x], [one.low, one.high])
        _across(axes, sorted({x for found in lines.values() for x, _ in found}))
        axes.locator_params(axis="y", nbins=4)

    return figures.plot(title, draw)


def plane(title: str, lines: Mapping[int, Sequence[tuple[str, Rate, Rate]]]) -> str:
    """One rate against another, in per cent; each point has its label, x and y."""

    def draw(axes: Any) -> None:
        for place, points in lines.items():
            xs, ys = (
                [100 * one.rate for _, one, _ in points],
                [100 * two.rate for *_, two in points],
            )
            figures.line(axes, place, xs, ys)
            for (label, _, _), x, y in zip(points, xs, ys, strict=True):
                figures.dot(axes, place, x, y)
                axes.text(x + 1.5, y + 2, label, fontsize=8, color=figures.MUTED)
        _square(axes)

    return figures.plot(title, draw)


def points(title: str, models: Mapping[int, tuple[str, Rate, Rate]]) -> str:
    """One rate against another, in per cent, with their 95 % intervals: a point for each place.

    Each has its label, x and y.
    """

    def draw(axes: Any) -> None:
        told = dict(zip(models, labels.names([name for name, *_ in models.values()]), strict=True))
        free = 103.0  # labels keep clear of those above them
        for place, (_, one, two) in sorted(models.items(), key=lambda item: -item[1][2].rate):
            x, y = 100 * one.rate, 100 * two.rate
            _whisker(axes, place, [100 * one.low, 100 * one.high], [y, y])
            _whisker(axes, place, [x, x], [100 * two.low, 100 * two.high])
            figures.dot(axes, place, x, y)
            free = min(y + 3, free - LABEL)
            side = {"ha": "left", "x": x + 2} if x < 60 else {"ha": "right", "x": x - 2}
            axes.text(y=free, s=told[place], fontsize=8, color=figures.MUTED, **side)
        _square(axes)

    return figures.plot(title, draw)


def histogram(title: str, bins: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Shares of each model's answers, in per cent, by bin: a bar for each model and bin."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(len(counts), 1)
        for model, found in enumerate(counts):
            places = [n - 0.4 + width * (model + 0.5) for n in range(len(bins))]
            shares = [100 * count / max(sum(found), 1) for count in found]
            fill = figures.colour(model)
            axes.bar(places, shares, width=width * 0.9, color=fill, linewidth=0)
        axes.set_xticks(range(len(bins)), bins)
        _percent(axes)

    return figures.plot(title, draw)


def _whisker(axes: Any, place: int, xs: Sequence[float], ys: Sequence[float]) -> None:
    axes.plot(xs, ys, color=figures.colour(place), linewidth=1, alpha=0.55)


def _square(axes: Any) -> None:
    axes.set_xlim(-3, 103)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    _percent(axes)


def _percent(axes: Any) -> None:
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])


def _across(axes: Any, xs: Sequence[float]) -> None:
    """Ticks at the values themselves, at most six of them."""
    above = [x for x in xs if x > 0]
    if above and max(above) >= LARGE * min(above):
        axes.set_xscale("symlog", linthresh=min(above))
        axes.minorticks_off()
    step = -(-len(xs) // TICKS)
    shown = list(reversed(xs[::-1][::step]))
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
