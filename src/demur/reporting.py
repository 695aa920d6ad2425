"""What a run has measured, found in its folder, becomes its page and its models' cards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from demur import manifest
from demur.config import Run


def report(config: Run, partial: bool = False) -> Path:
    """Every evaluation, training and measured checkpoint of a run on one page; returns the page.

    Each training's folder gets its model card. Where only other models were measured, the page is
    about those. Raises UserError for an unfinished stage; a ``partial`` page leaves it out.
    """
    from demur import report as page
    from demur.report.card import Origin

    trainings = {name: config.output / "train" / name for name in config.trainings()}
    own, found = ["before", *trainings], _evaluated(config)
    others = [name for name in found if name not in own]
    if partial or (others and len(others) == len(found)):
        own = [name for name in own if name in found]
        trainings = {name: trainings[name] for name in own if name in trainings}
    evaluations = {name: config.output / "evaluate" / name for name in [*own, *others]}
    title, steps = config.title or config.output.name, _along(config, trainings)
    out, origin = config.output / "report", Origin(config.model.name, _hub_sources(config))
    primary = config.evaluate.primary
    return page.build(evaluations, out, trainings, title, steps, origin=origin, primary=primary)


def _hub_sources(config: Run) -> tuple[str, ...]:
    given = (source.where for each in config.data.train.by_kind().values() for source in each)
    return tuple(where.split(":")[1] for where in given if where.startswith("hub:"))


def step_folder(config: Run, name: str, step: int) -> Path:
    """Where the evaluation of a training's checkpoint lies; `before` at 0 is where all began."""
    return config.output / "checkpoints" / name / str(step)


def _along(config: Run, trainings: Iterable[str]) -> dict[str, dict[int, Path]]:
    """Finished evaluations of checkpoints, by training and optimizer step."""
    start = _steps(config, "before")
    found = {name: _steps(config, name) for name in trainings}
    return {name: start | steps for name, steps in found.items() if steps}


def _steps(config: Run, name: str) -> dict[int, Path]:
    folders = step_folder(config, name, 0).parent.glob("[0-9]*")
    return {int(f.name): f for f in folders if manifest.read(f).get("status") == "done"}


def _evaluated(config: Run) -> list[str]:
    folders = sorted((config.output / "evaluate").glob("*"))
    return [f.name for f in folders if manifest.read(f).get("status") == "done"]
