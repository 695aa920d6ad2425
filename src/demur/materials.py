"""What a run needs before a weight is loaded: its data, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demur import models, names, sources, tokenizers
from demur.asking import Safe
from demur.config import Run
from demur.errors import UserError
from demur.fitting import Fit
from demur.records import Behavior, Example
from demur.settings import Model, Prompts

STAND_IN = "An answer that the model has yet to give."
SAFE_STAND_IN = "Sorry, an answer that declines has yet to be made."


@dataclass(frozen=True, slots=True)
class Materials:
    """The examples to train on and the behaviors to measure with, as configured.

    ``kinds`` are the kinds of rows each training should get out of them.
    """

    train: tuple[Example, ...]
    heldout: tuple[Behavior, ...]
    kinds: Mapping[str, frozenset[str]] = field(default_factory=dict)


def prepare(config: Run) -> Materials:
    """Read and check everything that can be wrong before a weight is loaded; writes nothing.

    Raises UserError for data that cannot be read, training prompts that are also held out, a
    model without tokenizer, chat template or weights, rows without a target, settings of a page.
    """
    found, kinds = read(config), {}
    for name, setting in config.trainings().items():
        with blaming(config, name):
            _refuse_second_adapter(setting.fit, names.resolve(config.model))
    models.check(config.model)
    if not config.model.endpoint:
        tokenizer = tokenizers.load(config.model)
        kinds = {
            name: _kinds(found.train, tokenizer, name, config)
            for name in config.trainings()
            if found.train
        }
    return replace(found, kinds=kinds)


def _refuse_second_adapter(fit: Fit, model: Model) -> None:
    asked = fit.lora.model_fields_set if fit.lora else set()
    if model.adapter and asked:
        raise UserError(
            f"train.lora.{min(asked)}={getattr(fit.lora, min(asked))!r}: the adapter "
            f"{model.adapter} is trained on as it is; leave train.lora out (`lora: {{}}` beside a "
            "preset), or give `lora: null` to train every weight"
        )


def read(config: Run) -> Materials:
    """The data of a configuration, checked without its model. Raises UserError as `prepare`."""
    from demur import evaluate as evaluation

    evaluation.check(config.evaluate)
    train = tuple(_examples(config.data.train))
    heldout = tuple(sources.behaviors(_examples(config.data.heldout)))
    evaluation.check(config.evaluate, heldout)
    _refuse_overlap(train, heldout)
    _writable(config.output)
    return Materials(train, heldout)


def _examples(prompts: Prompts) -> Iterator[Example]:
    for kind, given in prompts.by_kind().items():
        for source in given:
            found = sources.load(
                source.where,
                format=source.format,
                split=source.split,
                kind=kind,
                limit=source.limit,
            )
            named = (replace(e, source=source.name or e.source) for e in found)
            yield from named if source.answers else map(_bare, named)


def _bare(example: Example) -> Example:
    return replace(example, chosen=None, rejected=None, unfinished=False, ready=False)


def _refuse_overlap(train: Sequence[Example], heldout: Sequence[Behavior]) -> None:
    if shared := sources.overlap(train, heldout):
        raise UserError(
            f"{len(shared)} prompts are both trained on and held out, the first being "
            f"{shared[0][:60]!r}: take them out of data.train or data.heldout"
        )


def _writable(folder: Path) -> None:
    """Tried without making the folder: what is refused for another reason leaves nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"output={folder}: {there} is a file; choose another output")
    try:  # rights alone do not tell: root has all of them, and may write nothing to /proc
        TemporaryDirectory(dir=there).cleanup()
    except OSError:
        raise UserError(
            f"output={folder}: {there} cannot be written to; choose another output"
        ) from None


@contextmanager
def blaming(config: Run, name: str) -> Iterator[None]:
    """What is refused of a variant's settings, its own or inherited ones, is under its name."""
    try:
        yield
    except UserError as error:
        if name not in config.variants:
            raise
        raise UserError(str(error).replace("train.", f"variants.{name}.")) from None


def _kinds(train: Sequence[Example], tokenizer: Any, name: str, config: Run) -> frozenset[str]:
    """Kinds of the rows there will be; a row without a target or a wrong mix is refused now.

    Answers that are not collected yet have a stand-in.
    """
    from demur import training

    setting, wanted = config.trainings()[name], config.collect.safe
    answered = [with_safe(_with_answer(example), wanted) for example in train]
    with blaming(config, name):
        rows = training.rows(answered, tokenizer, setting, config.seed)
        training.check(rows, setting)
    return frozenset(row.kind for row in rows)


def _with_answer(example: Example) -> Example:
    from demur import collect

    if not collect.lacks(example):
        return example
    sources.behaviors([example])  # it will be asked alone; refuses one with turns before it
    harmful = example.kind == "harmful"
    return replace(example, rejected=STAND_IN) if harmful else replace(example, chosen=STAND_IN)


def with_safe(example: Example, wanted: Safe | None) -> Example:
    """The example, with a stand-in for the safe answer that `collect.safe` will make."""
    from demur import safe

    made = wanted and safe.lacks(example, wanted)
    return replace(example, chosen=SAFE_STAND_IN) if made else example
