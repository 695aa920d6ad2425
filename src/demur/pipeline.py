"""collect → train → evaluate → report, one run folder, each stage a folder that resumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from demur import config as configuration
from demur import identity, manifest, models, pages, processes, records, starting, tokenizers
from demur.config import Run
from demur.errors import UserError
from demur.fitting import Train
from demur.materials import Materials, blaming, prepare, read
from demur.progress import say
from demur.records import Behavior, Completion, Example
from demur.settings import Model, parts, spelled


def run(config: Run) -> Path:
    """Do everything a configuration asks for, or what is left of it; returns the report's page."""
    processes.alone("run")
    materials = prepare(config)
    if config.train:
        _need("data.train", materials.train)
    _need("data.heldout", materials.heldout)
    collect(config, materials)
    evaluate(config, "before", config.model, materials, start=config.model)
    for name in config.trainings():
        train(config, name, materials)
        evaluate(config, name, trained(config, name, materials), materials, start=config.model)
    return report(config)


def _need(where: str, found: Sequence[Any]) -> None:
    if not found:
        raise UserError(f"{where} names no source: give at least one, e.g. demo:harmful.train")


def collect(config: Run, materials: Materials | None = None) -> Path:
    """Stage `collect`: the answers that training and measuring lack, from the starting model."""
    from demur import collect as stage

    processes.alone("collect")
    out = config.output / "collect"
    stage.collect(_task(config, materials or prepare(config)), out)
    return out


def _task(config: Run, materials: Materials) -> Any:
    from demur.collect import Task

    decoding = config.evaluate.decoding
    return Task(config.model, materials.train, materials.heldout, config.collect, decoding)


def collected(config: Run, materials: Materials) -> Path | None:
    """The folder of a finished `collect`. Raises UserError if it was made from something else."""
    folder = config.output / "collect"
    return folder if manifest.done(folder, _task(config, materials).inputs()) else None


def examples(config: Run, materials: Materials) -> list[Example]:
    """What `collect` left to train on. Raises UserError if it has not been run."""
    if folder := collected(config, materials):
        return records.read(folder / "train.jsonl", Example)
    raise UserError(f"{config.output}: nothing is collected yet: run `demur collect` first")


def train(config: Run, name: str = "after", materials: Materials | None = None) -> Path:
    """Stage `train`: one of the run's trainings, from the starting model.

    The one stage that several processes may do together; the first of them writes.
    """
    from demur import training

    materials = materials or prepare(config)
    out, setting = config.output / "train" / name, config.trainings()[name]
    data = examples(config, materials)
    if manifest.done(out, made_from := _trained_from(config, setting, data)):
        return out
    tokenizer = tokenizers.load(config.model)
    drawing = training.Drawing(data, tokenizer, setting, config.seed)
    rows = drawing(0)
    _refuse_lost(name, materials.kinds.get(name, set()) - {row.kind for row in rows})
    with blaming(config, name):
        training.check(rows, setting)
    facts = {
        "recipe": setting.recipe,
        "chat_template": tokenizers.template_hash(tokenizer),
        "rows": _count(row.kind for row in rows),
        "examples": _count(example.kind for example in data),
        "unsafe": sum(example.rejected is not None for example in data),
        "seed": config.seed,
    } | drawing.facts()
    training.last_checkpoint(out, setting.fit)  # or a refusal, before a weight is loaded
    manifest.begin(out, made_from, facts)
    say(f"training {name!r} ({setting.recipe}) on {len(rows)} rows{drawing.left()}")
    model = models.load(config.model, full=setting.fit.lora is None)
    facts = training.fit(model, tokenizer, data, setting, out, config.seed)
    manifest.finish(out, **facts)
    return out


def _trained_from(config: Run, setting: Train, data: Sequence[Example]) -> dict[str, Any]:
    return {
        "model": identity.identity(config.model),
        "data": manifest.of(data),
        "train": setting.flat(),
        "seed": config.seed,
    }


def _refuse_lost(name: str, lost: Set[str]) -> None:
    if lost:
        raise UserError(
            f"training {name!r}: no row of kind {', '.join(sorted(lost))} is left, as the model "
            "gave no usable answers for it: give more prompts, or bring answers"
        )


def _count(kinds: Any) -> dict[str, int]:
    found = sorted(kinds)
    return {kind: found.count(kind) for kind in dict.fromkeys(found)}


def trained(config: Run, name: str, materials: Materials) -> Model:
    """The model that a finished training left. Raises UserError if there is none."""
    folder, setting = config.output / "train" / name, config.trainings()[name]
    if not manifest.done(folder, _trained_from(config, setting, examples(config, materials))):
        raise UserError(f"{folder} is not there or not finished: run `demur train` first")
    return config.model.model_copy(update={"name": str(folder), "adapter": None})


def evaluate(
    config: Run,
    name: str,
    model: Model,
    materials: Materials | None = None,
    start: Model | None = None,
) -> Path:
    """Stage `evaluate`: one model under every attack, on the held-out behaviors.

    ``start`` is the model it was trained from, if that is known.
    """
    from demur import evaluate as evaluation

    behaviors, known = heldout(config, materials or prepare(config))
    out = config.output / "evaluate" / name
    evaluation.evaluate(model, behaviors, config.evaluate, out, config.seed, known, start)
    if notes := config.notes():
        manifest.note(out, notes=notes)
    return out


def heldout(config: Run, materials: Materials) -> tuple[list[Behavior], list[Completion]]:
    """What a model is asked, and what the starting model has answered to it already.

    Raises UserError where nothing is held out.
    """
    _need("data.heldout", materials.heldout)
    if folder := collected(config, materials):
        known = records.resume(folder / "heldout.completions.jsonl", Completion)
        return records.read(folder / "heldout.jsonl", Behavior), known
    return list(materials.heldout), []


def evaluate_all(
    config: Run, model: Model | None = None, only: str | None = None
) -> Iterator[Path]:
    """Measure what the run has: the starting model and its trainings, or one ``model`` alone."""
    if model is not None:
        materials = read(config)  # which refuses what is set wrong, before a word on the drift
        start = starting.start_of(model, config)
        yield evaluate(config, folder_name(model), model, materials, start)
        return
    materials = prepare(config)
    if only is None:
        yield evaluate(config, "before", config.model, materials, config.model)
    for name in names(config, only):
        yield evaluate(config, name, trained(config, name, materials), materials, config.model)


def plain(model: str, overrides: Sequence[str] = ()) -> Run:
    """The run that measures a ``model`` and no more: the suite `demo`, but for ``overrides``."""
    chosen = spelled(model)
    name = folder_name(Model.model_validate(chosen))
    tree = {"output": f"runs/{name}", "suite": "demo", "model": chosen}
    return configuration.build(configuration.merge(tree, overrides), f"--model {model}")


def folder_name(model: Model) -> str:
    """A model as the name of a folder: of a path its parts, then those of its adapter."""
    return "-".join(parts(model.name, model.adapter))


def names(config: Run, only: str | None = None) -> list[str]:
    """The run's trainings by name, or the one asked for. Raises UserError if there is none so."""
    known = list(config.trainings())
    if only is not None and not known:
        raise UserError(f"--only {only}: the run trains nothing; add `train` to its configuration")
    if only is not None and only not in known:
        raise UserError(pages.unknown("training", only, known))
    return known if only is None else [only]


def report(config: Run, partial: bool = False) -> Path:
    """Stage `report`: every evaluation and training of the run on one page.

    Where only other models were measured, it is about those; a ``partial`` one is about whatever
    was, though the run is not done.
    """
    from demur import reporting

    processes.alone("report")
    return reporting.report(config, partial)


def report_again(folder: Path) -> Path:
    """Stage `report` of a run without a configuration: all that lies finished in its folder."""
    from demur import reporting

    processes.alone("report")
    return reporting.again(folder)
