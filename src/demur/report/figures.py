"""The figures of a report: inline SVG that takes its colours and its type from the page.

Drawn by matplotlib in stand-in colours, each then replaced by a CSS variable, so that one
drawing serves light and dark. Nothing random and no date goes in: same data, same bytes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from demur.metrics import Rate
from demur.report import labels

WIDTH, ROW, GUTTER = 360, 18, 88  # points: a drawing, a bar's row, the names left of the bars
MODELS = 7
OUTCOMES = {
    **{"complied": 0, "harmful": 0, "wrong": 0},
    **{"safe": 1, "refused": 1, "correct": 1},
    **{"broken": 2, "unscored": 3},
}
INK, MUTED, RULE, PAPER = "#b00000", "#b00001", "#b00002", "#b00003"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)), "-")
ROLES = {"a": "model", "b": "tone", "c": "outcome", "d": "on-outcome"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "demur",
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@dataclass(frozen=True, slots=True)
class Bars:
    """One measure of a bar figure: its title and each model's rate, None where not measured."""

    title: str
    rates: tuple[Rate | None, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """One group of a stacked figure: its title and each model's count of every outcome."""

    title: str
    counts: tuple[Mapping[str, int], ...]


def colour(model: int) -> str:
    return f"#a0000{model % MODELS}"


def bars(panel: str, measures: Sequence[Bars], models: Sequence[str]) -> str:
    """Rates as horizontal bars with their 95 % intervals, the measures under one another."""
    with style.context(["default", STYLE]):
        canvas, axes = _rows(measures, len(models))
        names = labels.names(models)
        for top, measure in _tops(measures, len(models)):
            axes.text(-GUTTER, top, labels.heading(measure.title), va="center", weight="bold")
            for model, rate in enumerate(measure.rates):
                _bar(axes, top + ROW * (model + 1), model, names[model], rate)
        return _svg(canvas, panel)


def _bar(axes: Any, y: float, model: int, name: str, rate: Rate | None) -> None:
    full = _full()
    axes.text(-6, y, name, ha="right", va="center", color=MUTED)
    if rate is None or not rate.n:
        nothing = "none scored" if rate else "not measured"
        axes.text(2, y, nothing, va="center", color=MUTED, style="italic")
        return
    axes.barh(y, full, height=ROW * 0.62, color=RULE, alpha=0.35, linewidth=0)
    axes.barh(y, rate.rate * full, height=ROW * 0.62, color=colour(model), linewidth=0)
    x, end = rate.low * full, rate.high * full
    whisker = [x, x, x, end, end, end], [y - 2.5, y + 2.5, y, y, y - 2.5, y + 2.5]
    axes.plot(*whisker, color=INK, linewidth=1, solid_capstyle="butt")
    axes.text(full + 8, y, f"{100 * rate.rate:.0f} %", va="center")


def stacks(panel: str, groups: Sequence[Stack], models: Sequence[str]) -> str:
    """What became of every answer: one full-width bar for each group and model."""
    with style.context(["default", STYLE]):
        canvas, axes = _rows(groups, len(models))
        names = labels.names(models)
        for top, group in _tops(groups, len(models)):
            axes.text(-GUTTER, top, labels.heading(group.title), va="center", weight="bold")
            for model, counts in enumerate(group.counts):
                _stack(axes, top + ROW * (model + 1), names[model], counts)
        return _svg(canvas, panel)


def _stack(axes: Any, y: float, name: str, counts: Mapping[str, int]) -> None:
    axes.text(-6, y, name, ha="right", va="center", color=MUTED)
    total, left = sum(counts.values()), 0.0
    if not total:
        axes.text(2, y, "not measured", va="center", color=MUTED, style="italic")
    for label, count in counts.items():
        width = count / max(total, 1) * _full()
        fill = f"#c0000{OUTCOMES[label]}"
        axes.barh(y, width, left=left, height=ROW * 0.8, color=fill, edgecolor=PAPER, linewidth=1)
        if width > 7 * len(str(count)) + 3:
            on = f"#d0000{OUTCOMES[label]}"
            axes.text(left + width / 2, y, str(count), ha="center", va="center", color=on)
        left += width
    axes.text(_full() + 8, y, str(total or ""), va="center", color=MUTED)


def curve(title: str, lines: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> str:
    """One logged quantity against the training step: a line for each run, by its place."""

    def draw(axes: Any) -> None:
        for run, (steps, values) in lines.items():
            line(axes, run, steps, values)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.locator_params(axis="y", nbins=4)

    return plot(title, draw)


def plot(title: str, draw: Callable[[Any], None]) -> str:
    """A small drawing with two axes, its data units those of what ``draw`` puts into it."""
    with style.context(["default", STYLE]):
        canvas = Canvas(figsize=(280 / 72, 150 / 72))
        axes = canvas.add_axes((0.13, 0.16, 0.84, 0.78))
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.tick_params(length=0, labelsize=8.5)
        axes.yaxis.set_major_formatter(lambda value, _: labels.tick(value))
        draw(axes)
        return _svg(canvas, title)


def line(axes: Any, run: int, xs: Sequence[float], ys: Sequence[float]) -> None:
    """A run's line; place 0 is the untrained model, so that dashes begin with the first run."""
    dash = DASHES[(run - 1) % MODELS]
    axes.plot(xs, ys, color=colour(run), linewidth=1.6, linestyle=dash)


def dot(axes: Any, run: int, x: float, y: float) -> None:
    """A line of no length with round ends: a marker would be a definition with an id."""
    axes.plot([x, x], [y, y], color=colour(run), linewidth=5, solid_capstyle="round")


def _rows(groups: Sequence[Any], models: int) -> tuple[Canvas, Any]:
    """An empty drawing whose data units are points, y downward, the bars starting at x = 0."""
    height = _height(models) * len(groups)
    canvas = Canvas(figsize=(WIDTH / 72, height / 72))
    axes = canvas.add_axes((0, 0, 1, 1), xlim=(-GUTTER, WIDTH - GUTTER), ylim=(height, 0))
    axes.axis("off")
    return canvas, axes


def _tops(groups: Sequence[Any], models: int) -> list[tuple[float, Any]]:
    return [(10 + place * _height(models), group) for place, group in enumerate(groups)]


def _height(models: int) -> int:
    return ROW * (models + 1) + 14


def _full() -> float:
    """How long 100 % is: what the names on the left and the numbers on the right leave."""
    return WIDTH - GUTTER - 44


def _svg(canvas: Canvas, label: str) -> str:
    canvas.patch.set_visible(False)
    for artist in canvas.findobj():
        artist.set_clip_on(False)  # a clip path would need an id, unique on the whole page
    buffer = io.StringIO()
    with warnings.catch_warnings():  # the reader's fonts draw the text, not matplotlib's
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(canvas).print_svg(buffer, metadata=nothing)
    return _at_home(buffer.getvalue(), label)


def _at_home(svg: str, label: str) -> str:
    """The drawing as part of a page: no header, no ids, no style sheet, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>.*?</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0]), svg)
    head = re.search(r'viewBox="[^"]*"', svg)
    assert head, "matplotlib always gives its drawings a viewBox"
    body = svg[svg.index(">") + 1 :]
    title = html.escape(label)
    return f'<svg {head[0]} role="img" aria-label="{title}">{_tight(body)}'


def _tag(tag: str) -> str:
    tag = re.sub(r' id="[^"]*"| transform="rotate\(-0 [^"]*"| ?font-family: [^;"]*;?', "", tag)
    return re.sub(r"#([abcd])0000(\d)", lambda m: f"var(--{ROLES[m[1]]}{m[2]})", tag)


def _tight(svg: str) -> str:
    return "".join(line.strip() + ("\n" if line.endswith(">") else " ") for line in svg.split("\n"))
