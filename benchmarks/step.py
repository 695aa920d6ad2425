"""Whole trainings: demur against trl's SFTTrainer on the same model, rows and tokens.

`python -m benchmarks step` measures; `python -m benchmarks.step SIDE RECIPE SIZE` prints the peak
memory of a training, in bytes above the loaded model. Both sides draw the order of the rows, train
a LoRA adapter of the same shape and save it. trl is given what its CPU road has: the loss that
holds no logits (its default), batches of rows of similar length, no checkpointing of activations.
Its packing and padding-free batches need FlashAttention, which runs on GPUs only.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Case, alone, figure, peak_memory, times
from demur import models, sources, training
from demur.chat import IGNORE, Row
from demur.fitting import Lora, Train
from demur.records import Example, Kind, Message
from demur.settings import Model


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
        self.tokenizer = models.tokenizer(Model(name=size.model))
        self.model = models.with_lora(models.load(Model(name=size.model)), Lora(), 0)

    def demur(self, recipe: str, size: Size, out: Path) -> None:
        given, train = examples(recipe, size), settings(recipe, size)
        training.fit(self.model, self.tokenizer, given, train, out, 0)

    def trl(self, recipe: str, size: Size, out: Path) -> None:
        from datasets import Dataset
        from trl import SFTTrainer

        data = Dataset.from_list([_row(r) for r in self.rows(recipe, size)])
        trainer = SFTTrainer(
            self.model,
            _config(settings(recipe, size), out),
            train_dataset=data,
            processing_class=self.tokenizer,
        )
        trainer.train()
        trainer.save_model(str(out))

    def rows(self, recipe: str, size: Size) -> list[Row]:
        return training.rows(examples(recipe, size), self.tokenizer, settings(recipe, size))


def _row(row: Row) -> dict[str, list[int]]:
    """What trl learns from a row: the label, or the token that demur would avoid."""
    pairs = zip(row.labels, row.avoid, strict=True)
    told = [label if label != IGNORE else avoid for label, avoid in pairs]
    return {"input_ids": list(row.input_ids), "labels": told}


def _config(train: Train, out: Path) -> Any:
    from trl import SFTConfig

    mine = training._arguments(train, out, 0)
    same = ("output_dir", "max_steps", "learning_rate", "per_device_train_batch_size", "bf16")
    return SFTConfig(
        **{name: mine[name] for name in (*same, "use_cpu", "report_to", "logging_steps")},
        train_sampling_strategy="group_by_length",
        activation_checkpointing=False,
        max_length=train.fit.max_length,
        save_strategy="no",
        disable_tqdm=True,
    )


def _run(way: Callable[[str, Size, Path], None], recipe: str, size: Size) -> None:
    with tempfile.TemporaryDirectory() as folder:
        way(recipe, size, Path(folder))
    gc.collect()


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """demur / trl on the same rows, whose trl learns what demur would avoid; five minutes."""
    mine, theirs = Sides(size), Sides(size)
    even = replace(size, length=EVEN)
    cases: dict[str, Case] = {
        name: partial(_run, mine.demur, name, size) for name in ("sft", "ta_sft", "derta")
    }
    cases |= {f"trl {name}": partial(_run, theirs.trl, name, size) for name in ("ta_sft", "derta")}
    cases["even"] = partial(_run, mine.demur, "ta_sft", even)
    cases["trl even"] = partial(_run, theirs.trl, "ta_sft", even)
    return _ratios(times(cases, size.rounds)) + [_memory(recipe, size) for recipe in size.memory]


def _ratios(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    trl = taken["trl ta_sft"]  # the rows of sft are the same, and so is what trl does with them
    return [
        figure("sft / trl's SFTTrainer, same rows", taken["sft"], trl, 1.0),
        figure("ta_sft / trl's SFTTrainer, same rows", taken["ta_sft"], trl, 1 / 1.5),
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
    before = peak_memory()
    _run(way, recipe, size)
    return peak_memory() - before


if __name__ == "__main__":
    print(_peak(sys.argv[1], sys.argv[2], Size(**json.loads(sys.argv[3]))))
