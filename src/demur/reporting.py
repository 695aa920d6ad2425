"""What a run has measured, found in its folder, becomes its page and its models' cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from demur import manifest
from demur.config import Run
from demur.errors import UserError


def report(config: Run, partial: bool = False) -> Path:
    """Every evaluation, training and measured checkpoint of a run on one page; returns the page.

    Each training's folder gets its model card. Where only other models were measured, the page is
    about those. Raises UserError for an unfinished stage; a ``partial`` page leaves it out.
    """
    from demur import report as page
    from demur.report import names
    from demur.report.card import Origin

    trainings = {name: config.output / "train" / name for name in config.trainings()}
    own, found = ["before", *trainings], _done(config.output / "evaluate")
    others = [name for name in found if name not in own]
    if partial or (others and len(others) == len(found)):
        own = [name for name in own if name in found]
        trainings = {name: trainings[name] for name in own if name in trainings}
    evaluations = _named(config.output, own, others)
    title, steps = config.title or names.heading(evaluations), _along(config.output, trainings)
    out, origin = config.output / "report", Origin(config.model.name, _hub_sources(config))
    primary = config.evaluate.primary
    return page.build(evaluations, out, trainings, title, steps, origin=origin, primary=primary)


def again(folder: Path) -> Path:
    """The page of what lies finished in a run's folder, by itself; returns the page.

    For a run without a configuration: the judge of harm is the one that all was measured by, and
    no model card is written. Raises UserError where nothing is there.
    """
    from demur import report as page
    from demur.report import comparable, names

    found = sorted(_done(folder / "evaluate"), key=lambda name: name != "before")
    if not found:
        raise UserError(f"{folder} holds no finished evaluation: run `demur evaluate` first")
    trained = _done(folder / "train")
    own = [name for name in found if name == "before" or name in trained]
    evaluations = _named(folder, own, [name for name in found if name not in own])
    trainings = {name: folder / "train" / name for name in found if name in trained}
    title, primary = names.heading(evaluations), comparable.primary(evaluations.values())
    steps = _along(folder, trainings)
    return page.build(evaluations, folder / "report", trainings, title, steps, primary=primary)


def _named(output: Path, own: Sequence[str], others: Sequence[str]) -> dict[str, Path]:
    """Evaluations as a page calls them: the run's own by name, others by their models."""
    from demur.report import names

    folders = [output / "evaluate" / name for name in [*own, *others]]
    return dict(zip(names.shown(folders), folders, strict=True))


def _hub_sources(config: Run) -> tuple[str, ...]:
    given = (source.where for each in config.data.train.by_kind().values() for source in each)
    return tuple(where.split(":")[1] for where in given if where.startswith("hub:"))


def step_folder(config: Run, name: str, step: int) -> Path:
    """Where the evaluation of a training's checkpoint lies; `before` at 0 is where all began."""
    return config.output / "checkpoints" / name / str(step)


def _along(output: Path, trainings: Iterable[str]) -> dict[str, dict[int, Path]]:
    """Finished evaluations of checkpoints, by training and optimizer step."""
    start = _steps(output, "before")
    found = {name: _steps(output, name) for name in trainings}
    return {name: start | steps for name, steps in found.items() if steps}


def _steps(output: Path, name: str) -> dict[int, Path]:
    home = output / "checkpoints" / name
    return {int(step): home / step for step in _done(home) if step.isdecimal()}


def _done(home: Path) -> list[str]:
    """The finished stages that lie in a folder, by name."""
    return [f.name for f in sorted(home.glob("*/")) if manifest.read(f).get("status") == "done"]
