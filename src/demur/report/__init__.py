"""Evaluation and training folders become one page with figures, its Markdown twin and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from demur import evaluated, records
from demur.errors import UserError
from demur.report import along, by_source, card, comparable, lines, names, results, twins, words
from demur.report.along import Across
from demur.report.card import Origin
from demur.report.chosen import choose
from demur.report.results import Measured
from demur.report.view import view


def build(
    evaluations: Mapping[str, Path],
    out: Path | str,
    training: Mapping[str, Path] | None = None,
    title: str = "Evaluation",
    checkpoints: Mapping[str, Mapping[int, Path]] | None = None,
    *,
    origin: Origin | None = None,
    primary: str = "refusal",
    force: bool = False,
) -> Path:
    """Write ``index.html``, ``report.md`` and ``results.json`` into ``out``; returns the page.

    The others are compared with the first evaluation; ``training`` holds runs under the names
    of the models they made, ``checkpoints`` evaluations of these by their optimizer step;
    ``primary`` is the judge of harm. With their ``origin``, each training folder gets its model
    card. The same input gives the same bytes. Raises UserError for partial folders, and for
    judges of different versions unless ``force``.
    """
    _refuse_file(Path(out))
    found = results.gather(evaluations, training or {}, primary, force)
    steps = along.checkpoints(checkpoints or {}, primary)
    plain = results.plain(found) | {"checkpoints": along.plain(steps)}
    page = _write(Path(out), view(title, found, steps), plain)
    if origin:
        _write_cards(training or {}, found, title, origin)
    return page


def _write_cards(training: Mapping[str, Path], found: Measured, title: str, origin: Origin) -> None:
    template = _templates(autoescape=False).get_template("card.md.j2")
    for name, folder in training.items():
        if name in found.evaluations:
            shown, data = card.view(title, name, folder, found, origin)
            card.write(folder, data, template.render(shown))


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Several runs, measured and compared with the first: as lines, as plain values, as a page."""

    found: Measured
    across: Across | None = None

    def lines(self) -> str:
        return lines.side_by_side(self.found)

    def plain(self) -> dict[str, Any]:
        told = results.plain(self.found)
        return told | ({"along": along.plain(self.across.lines)} if self.across else {})

    def write(self, out: Path) -> Path:
        """The page, its Markdown twin and the JSON. Raises UserError if ``out`` is a file."""
        _refuse_file(out)
        title = names.side_by_side(self.found.evaluations)
        return _write(out, view(title, self.found, {}, self.across), self.plain())


def side_by_side(
    folders: Sequence[Path], what: str | None = None, *, primary: str | None = None, force: bool
) -> SideBySide:
    """Compare runs or evaluation folders with the first of them, question by question.

    ``what`` names what to draw the rates along: ``data`` or a setting of ``train``; ``primary`` is
    the judge of harm, by default the one that all of them were evaluated with. Raises
    UserError, one line, where questions, decoding, or judges and their settings differ, unless
    ``force``; and for fewer than two folders.
    """
    if len(folders) < 2:
        raise UserError("one folder alone cannot be compared: name two or more")
    chosen = choose(folders)
    training = {name: one.training for name, one in chosen.items() if one.training}
    evaluations = {name: one.evaluation for name, one in chosen.items()}
    judge = primary or comparable.primary(evaluations.values())
    found = results.gather(evaluations, training, judge, force)
    if not force:
        comparable.refuse(found.evaluations)
    return SideBySide(found, along.across(found, what) if what else None)


def figures_of(folder: Path, primary: str = "refusal") -> dict[str, Any]:
    """Every figure of an evaluation folder as plain values, and by source under ``sources``.

    That is there where one kind of request comes from several. Raises UserError for a partial
    folder.
    """
    loaded = evaluated.load(folder)
    found = results.figures(twins.measured(loaded, primary))
    sides = by_source.by_source([loaded], primary)
    parts = {
        name: results.figures(f for [f] in side.table.values()) for name, side in sides.items()
    }
    return found | ({"sources": parts} if parts else {})


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder to write the report to")


def _write(out: Path, shown: Mapping[str, Any], plain: Mapping[str, Any]) -> Path:
    """Render all three before the first is written."""
    files = {
        "results.json": json.dumps(plain, indent=2, allow_nan=False) + "\n",
        "report.md": _templates(autoescape=False).get_template("report.md.j2").render(shown),
        "index.html": _templates(autoescape=True).get_template("page.html.j2").render(shown),
    }
    for name, text in files.items():
        records.replace(out / name, text)
    return out / "index.html"


def _templates(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("demur.report", "."),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.globals |= {"joint": words.joint, "many": words.many, "outcomes": words.OUTCOMES}
    environment.globals |= {"visible": words.visible, "number": words.number, "md": _markdown}
    return environment


def _shown(value: Any) -> Any:
    """Every expression of a template passes here, so that no text hides or reorders."""
    return value if isinstance(value, Markup) else words.visible(value)


def _markdown(text: object) -> str:
    """Text as Markdown shows it literally, on one line, also in a table."""
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", words.line(text))
