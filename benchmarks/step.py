"""Training steps: demur against trl's SFTTrainer on the same model, rows and tokens.

`python -m benchmarks step` measures; `python -m benchmarks.step SIDE RECIPE SIZE` prints the peak
memory of a training, in bytes above the loaded model. Both sides draw the order of the rows and
train a LoRA adapter of the same shape; timed are all steps of a training, from the first one's
begin to the last one's end, and not what comes before and after once. trl has the loss that holds
no logits (its default), no checkpointing of activations, and one of two roads: rows end to end
without padding (`padding_free`; transformers keeps them apart by a mask), or padded batches of
rows of similar length (`group_by_length`).
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from benchmarks.measure import Case, alone, clock, figure, forget_peak, peak_memory, times
from demur import adapters, models, sources, tokenizers, training
from demur.fitting import Lora, Train
from demur.records import Example, Kind, Message
from demur.settings import Model
from demur.supervision import IGNORE, Row


@dataclass(frozen=True)
class Size:
    """Rows of a training and of a pass; ``length`` cuts every row there, None leaves it natural.

    ``memory`` names the recipes whose peak is compared, each side in a process of its own.
    """

    model: str = "smollm2-135m-instruct"
    rows: int = 16
    batch: int = 8
    words: float = 3.8  # of an answer, the logarithm of its median; spread 0.9, 10 to 400
    length: int | None = None
    rounds: int = 2
    memory: tuple[str, ...] = ("ta_sft", "derta")


NEEDS = ("trl",)
FULL = Size()
EVEN = 96  # tokens of a row, where all are of one length
OPEN = {"gate": None, "margin": None}  # closed positions would be cheaper
RECIPES: dict[str, dict[str, Any]] = {
    "sft": {},
    "ta_sft": OPEN,
    "derta": {"lambda": 1.0, **OPEN},
}


def examples(recipe: str, size: Size) -> list[Example]:
    """What gives ``rows`` rows; `sft` learns the very answers that `ta_sft` has."""
    draw = random.Random(0)
    harmful = size.rows // (8 if recipe == "derta" else 4)
    ordinary = size.rows - harmful * (2 if recipe == "derta" else 1)  # prefix and transition
    prompts = [*_prompts("everyday", ordinary), *_prompts("harmful", harmful)]
    words = " ".join(one.prompt for one in sources.load("demo:everyday.train")).split()
    return [_answered(one, _text(words, draw, size), recipe) for one in prompts]


def _prompts(kind: Kind, count: int) -> list[Example]:
    return sources.load(f"demo:{kind}.train", kind=kind)[:count]


def _text(words: Sequence[str], draw: random.Random, size: Size) -> str:
    count = 400 if size.length else min(400, max(10, int(draw.lognormvariate(size.words, 0.9))))
    return " ".join(draw.choices(words, k=count))


def _answered(example: Example, text: str, recipe: str) -> Example:
    asked = (Message(role="user", content=example.prompt),)
    if example.kind == "harmful" and recipe != "sft":
        return Example(messages=asked, chosen="I cannot help.", rejected=text, kind="harmful")
    return Example(messages=asked, chosen=text)


def settings(recipe: str, size: Size) -> Train:
    fit: dict[str, Any] = {"batch_size": size.batch, "save_steps": 1000}
    fit["max_steps"] = size.rows // size.batch
    if size.length:
        fit["max_length"] = size.length
    return Train.model_validate({"recipe": recipe, **RECIPES[recipe], **fit})


class Sides:
    """One model for each side, the adapter on it from the start."""

    def __init__(self, size: Size) -> None:
        self.tokenizer = tokenizers.load(Model(name=size.model))
        model = models.load(Model(name=size.model))
        self.model = adapters.with_lora(model, Lora(r=16, alpha=32), 0)

    def demur(self, recipe: str, size: Size, out: Path) -> None:
        given, train = examples(recipe, size), settings(recipe, size)
        training.fit(self.model, self.tokenizer, given, train, out, 0)

    def trl(self, recipe: str, size: Size, out: Path, grouped: bool = False) -> None:
        from datasets import Dataset
        from trl import SFTTrainer

        data = Dataset.from_list([_row(r) for r in self.rows(recipe, size)])
        trainer = SFTTrainer(
            self.model,
            _config(settings(recipe, size), out, grouped),
            train_dataset=data,
            processing_class=self.tokenizer,
        )
        trainer.train()

    def grouped(self, recipe: str, size: Size, out: Path) -> None:
        self.trl(recipe, size, out, grouped=True)

    def rows(self, recipe: str, size: Size) -> list[Row]:
        return training.rows(examples(recipe, size), self.tokenizer, settings(recipe, size))


def _row(row: Row) -> dict[str, list[int]]:
    """What trl learns from a row: the label, or the token that demur would avoid."""
    pairs = zip(row.labels, row.avoid, strict=True)
    told = [label if label != IGNORE else avoid for label, avoid in pairs]
    return {"input_ids": list(row.input_ids), "labels": told}


def _config(train: Train, out: Path, grouped: bool) -> Any:
    from trl import SFTConfig

    mine = training._arguments(train, out, 0)
    same = ("output_dir", "max_steps", "learning_rate", "per_device_train_batch_size", "bf16")
    return SFTConfig(
        **{name: mine[name] for name in (*same, "use_cpu", "report_to", "logging_steps")},
        train_sampling_strategy="group_by_length" if grouped else "random",
        padding_free=not grouped,
        activation_checkpointing=False,
        max_length=None,  # the rows are cut already
        save_strategy="no",
        disable_tqdm=True,
    )


class Steps(TrainerCallback):
    """Seconds from the begin of a training's first step to the end of its last."""

    seconds: float
    _begun: float | None = None

    def on_step_begin(self, *given: Any, **options: Any) -> None:
        self._begun = clock() if self._begun is None else self._begun

    def on_step_end(self, *given: Any, **options: Any) -> None:
        assert self._begun is not None
        self.seconds = clock() - self._begun


def _run(way: Callable[[str, Size, Path], None], recipe: str, size: Size) -> float:
    """The seconds of the steps."""
    steps = Steps()
    DEFAULT_CALLBACKS.append(steps)  # what every Trainer starts with, ours and theirs
    try:
        with tempfile.TemporaryDirectory() as folder:
            way(recipe, size, Path(folder))
    finally:
        DEFAULT_CALLBACKS.remove(steps)
    gc.collect()
    return steps.seconds


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """demur / trl on the same rows, whose trl learns what demur would avoid; six minutes."""
    mine, theirs = Sides(size), Sides(size)
    even = replace(size, length=EVEN)
    cases: dict[str, Case] = {
        name: partial(_run, mine.demur, name, size) for name in ("sft", "ta_sft", "derta")
    }
    cases |= {f"trl {name}": partial(_run, theirs.trl, name, size) for name in ("ta_sft", "derta")}
    cases["trl grouped"] = partial(_run, theirs.grouped, "ta_sft", size)
    cases["even"] = partial(_run, mine.demur, "ta_sft", even)
    cases["trl even"] = partial(_run, theirs.grouped, "ta_sft", even)  # nothing to pad
    return _ratios(times(cases, size.rounds)) + [_memory(recipe, size) for recipe in size.memory]


def _ratios(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    trl = taken["trl ta_sft"]  # the rows of sft are the same, and so is what trl does with them
    return [
        figure("sft / trl's SFTTrainer, same rows", taken["sft"], trl, 1.0),
        figure("ta_sft / trl's SFTTrainer, same rows", taken["ta_sft"], trl, 1 / 1.5),
        figure(
            "ta_sft / trl's SFTTrainer, same rows grouped by length",
            taken["ta_sft"],
            taken["trl grouped"],
            1 / 1.5,
        ),
        figure(
            "ta_sft / trl's SFTTrainer, rows of one length", taken["even"], taken["trl even"], 1.0
        ),
        figure("derta / trl's SFTTrainer, same rows", taken["derta"], taken["trl derta"], 1.0),
        figure("ta_sft / sft, both demur's, same tokens", taken["ta_sft"], taken["sft"]),
    ]


def _memory(recipe: str, size: Size) -> dict[str, Any]:
    """Of one pass."""
    one = json.dumps(asdict(replace(size, rows=size.batch)))
    mine, theirs = (alone("benchmarks.step", side, recipe, one) for side in ("demur", "trl"))
    return figure(f"peak memory of {recipe} / trl's SFTTrainer", [mine], [theirs], 1)


def _peak(side: str, recipe: str, size: Size) -> int:
    sides = Sides(size)
    way = sides.demur if side == "demur" else sides.trl
    before = forget_peak()
    _run(way, recipe, size)
    return peak_memory() - before


def _asked(given: list[str]) -> tuple[str, str, Size]:
    with suppress(ValueError, TypeError):
        side, recipe, size = given
        if side in ("demur", "trl") and recipe in RECIPES:
            return side, recipe, Size(**json.loads(size))
    sys.exit(
        "python -m benchmarks.step SIDE RECIPE SIZE: a side of demur, trl, a recipe of "
        f"{', '.join(RECIPES)}, a size as {json.dumps(asdict(FULL))}; got {given}"
    )


if __name__ == "__main__":
    print(_peak(*_asked(sys.argv[1:])))
