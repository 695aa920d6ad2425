"""Saved checkpoints under attack: what each stretch of a training bought, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from demur import fitting, pipeline, reporting
from demur.config import Run
from demur.errors import UserError
from demur.materials import Materials, prepare
from demur.progress import say
from demur.records import Behavior, Kind
from demur.settings import Model

KINDS: tuple[Kind, ...] = get_args(Kind)


def evaluate(config: Run, only: str | None = None, limit: int | None = None) -> Iterator[Path]:
    """Measure the starting model and every checkpoint of the run's trainings, or of one.

    ``limit`` prompts of each kind are asked, spread over all of them; None asks all. Raises
    UserError before any weight is loaded if a training is not finished or kept no checkpoint.
    """
    from demur import evaluate as evaluation

    materials = prepare(config)
    steps = {name: _steps(config, name, materials) for name in pipeline.names(config, only)}
    behaviors, known = pipeline.heldout(config, materials)
    asked = spread(behaviors, limit)
    models = [("before", 0, config.model)]
    models += [(name, step, model) for name, each in steps.items() for step, model in each.items()]
    for name, step, model in models:
        out = reporting.step_folder(config, name, step)
        evaluation.evaluate(model, asked, config.evaluate, out, config.seed, known, config.model)
        yield out


def spread(behaviors: Sequence[Behavior], limit: int | None) -> list[Behavior]:
    """At most ``limit`` behaviors of each kind, evenly spread over all of that kind, in order."""
    if limit is None:
        return list(behaviors)
    kept: set[str] = set()
    for kind in KINDS:
        same = [b.id for b in behaviors if b.kind == kind]
        take = min(limit, len(same))
        kept |= {same[n * len(same) // take] for n in range(take)}
    return [behavior for behavior in behaviors if behavior.id in kept]


def _steps(config: Run, name: str, materials: Materials) -> dict[int, Model]:
    """Each checkpoint of a training that is still there, by its optimizer step."""
    trained = pipeline.trained(config, name, materials)
    saved = fitting.checkpoints(trained.name)
    if not saved:
        raise UserError(f"{trained.name} holds no checkpoint: lower train.save_steps and train")
    _say_pruned(config, name, list(saved))
    return {n: trained.model_copy(update={"name": str(folder)}) for n, folder in saved.items()}


def _say_pruned(config: Run, name: str, saved: Sequence[int]) -> None:
    fit = config.trainings()[name].fit
    kept = f"{name}: checkpoints of steps {', '.join(map(str, saved))}"
    if saved[0] > fit.save_steps:
        kept += (
            f"; earlier ones are gone, as train.save_total_limit={fit.save_total_limit} keeps no "
            "more: for the whole way, train into another output with save_total_limit=null"
        )
    say(kept)
