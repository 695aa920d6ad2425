"""Real rows with their tokens coloured by what they are told: context, learn, avoid.

Where there is no colour, as in a file or a pipe, marks stand around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from demur import pipeline, tokenizers, training
from demur.config import Run
from demur.errors import UserError
from demur.materials import Materials, blaming, prepare, with_safe
from demur.records import Example
from demur.supervision import IGNORE, Row

STYLES = {
    "context": "dim",
    "learn": "black on green3",
    "avoid": "black on orange1",
    "both": "black on orchid1",
}
MARKS = {"learn": "+", "avoid": "-", "both": "±"}


def show(config: Run, count: int, console: Console | None = None) -> None:
    """Print ``count`` rows of each kind for each training of a run; no weight is loaded.

    Raises UserError if there is not an answer to make a row of: collect first.
    """
    console = console or Console()
    marks = console.no_color or console.color_system is None
    materials = prepare(config)
    collected = pipeline.collected(config, materials)
    tokenizer, examples = tokenizers.load(config.model), _examples(config, materials)
    console.print(_legend(marks))
    for name, setting in config.trainings().items():
        console.rule(f"{name} ({setting.recipe})")
        with blaming(config, name):
            drawing = training.Drawing(examples, tokenizer, setting, config.seed)
            rows = drawing(0)
            if collected:  # till then some kinds of rows may be missing
                training.check(rows, setting)
        for line in filter(None, (f"{len(rows)} rows{drawing.left()}", drawing.cuts())):
            console.print(Text(line))
        for row in _some(rows, count):
            console.print(Text(f"{row.kind}  {len(row)} tokens, {row.targets} told", "bold"))
            console.print(paint(row, tokenizer, marks), "")


def _examples(config: Run, materials: Materials) -> Sequence[Example]:
    """What was collected; before that what has answers, with stand-ins for safe ones to come."""
    if pipeline.collected(config, materials):
        return pipeline.examples(config, materials)
    answered = [e for e in materials.train if e.chosen is not None or e.rejected is not None]
    if not answered:
        raise UserError("no training prompt has an answer yet: run `demur collect` first")
    return [with_safe(example, config.collect.safe) for example in answered]


def _some(rows: Iterable[Row], count: int) -> list[Row]:
    """The first ``count`` rows of each kind."""
    shown: dict[str, list[Row]] = {}
    for row in rows:
        shown.setdefault(row.kind, []).append(row)
    return [row for same in shown.values() for row in same[:count]]


def paint(row: Row, tokenizer: Any, marks: bool = False) -> Text:
    """The row's tokens side by side, each in the colour of its targets, or within their ``marks``.

    A token that is told to learn something else than itself is followed by → and that token.
    """
    text = Text()
    for told, run in groupby(zip(row.input_ids, row.labels, row.avoid, strict=True), _told):
        begin, end = _marks(told) if marks else ("", "")
        text.append(begin)
        for token, learn, _ in run:
            text.append(tokenizer.decode([token]), STYLES[told])
            if learn not in (IGNORE, token):
                text.append(f"→{tokenizer.decode([learn])}", "green")
        text.append(end)
    return text


def _told(position: tuple[int, int, int]) -> str:
    _, learn, avoid = position
    if avoid == IGNORE:
        return "context" if learn == IGNORE else "learn"
    return "avoid" if learn == IGNORE else "both"


def _marks(told: str) -> tuple[str, str]:
    return (f"{MARKS[told]}[", "]") if told in MARKS else ("", "")


def _legend(marks: bool) -> Text:
    if marks:
        return Text("  ".join(name.join(_marks(name)) for name in STYLES))
    parts = [(f" {name} ", style) for name, style in STYLES.items()]
    return Text.assemble(*(piece for part in parts for piece in (part, " ")))
