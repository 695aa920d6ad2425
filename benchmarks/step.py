"""Whole trainings: demur against trl's SFTTrainer on the same model, rows and tokens.

`python -m benchmarks step` measures; `python -m benchmarks.step WAY` prints the peak memory of a
training, in bytes above the loaded model. Both sides draw the order of the rows, train a LoRA
adapter of the same shape and save it. trl is given what its CPU road has: the loss that holds no
logits (its default), batches of rows of similar length, no checkpointing of activations. Its
packing and padding-free batches need FlashAttention, which runs on GPUs only.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Case, alone, figure, peak_memory, times
from demur import models, sources, training
from demur.chat import IGNORE, Row
from demur.config import Lora, Model, Train
from demur.records import Example, Kind, Message

MODEL = Model(name="smollm2-135m-instruct")
ROWS, BATCH, ROUNDS = 16, 8, 3
RECIPES = ("sft", "ta_sft", "derta")
OPEN = {"gate": None, "margin": None}  # closed positions would be cheaper
TARGETS = {"sft": 1.0, "ta_sft": 1 / 1.5, "derta": 1.0}
EXTRA: dict[str, dict[str, Any]] = {
    "sft": {},
    "ta_sft": OPEN,
    "derta": {"lambda": 1.0, **OPEN},
}


def examples(recipe: str) -> list[Example]:
    """What gives ROWS rows: answers of natural lengths (log-normal, 10 to 400 words)."""
    draw = random.Random(0)
    harmful = {"sft": 0, "ta_sft": ROWS // 4, "derta": ROWS // 8}[recipe]
    ordinary = ROWS - harmful * (2 if recipe == "derta" else 1)  # DeRTa: prefix and transition
    prompts = [*_prompts("everyday", ordinary), *_prompts("harmful", harmful)]
    words = " ".join(one.prompt for one in sources.load("demo:everyday.train")).split()
    return [_answered(one, words, draw) for one in prompts]


def _prompts(kind: Kind, count: int) -> list[Example]:
    return sources.load(f"demo:{kind}.train", kind=kind)[:count]


def _answered(example: Example, words: Sequence[str], draw: random.Random) -> Example:
    text = " ".join(draw.choices(words, k=min(400, max(10, int(draw.lognormvariate(3.8, 0.9))))))
    asked = (Message(role="user", content=example.prompt),)
    if example.kind == "harmful":
        return Example(messages=asked, chosen="I cannot help.", rejected=text, kind="harmful")
    return Example(messages=asked, chosen=text)


def settings(recipe: str) -> Train:
    fit = {"batch_size": BATCH, "max_steps": ROWS // BATCH, "save_steps": 1000}
    return Train.model_validate({"recipe": recipe, **EXTRA[recipe], **fit})


class Sides:
    """One model for each side, the adapter on it from the start."""

    def __init__(self) -> None:
        self.tokenizer = models.tokenizer(MODEL)
        self.model = models.with_lora(models.load(MODEL), Lora(), 0)

    def demur(self, recipe: str, out: Path) -> None:
        given = examples(recipe)
        training.fit(self.model, self.tokenizer, given, settings(recipe), out, 0)

    def trl(self, recipe: str, out: Path) -> None:
        from datasets import Dataset
        from trl import SFTTrainer

        train = settings(recipe)
        data = Dataset.from_list([_row(r) for r in self.rows(recipe)])
        trainer = SFTTrainer(
            self.model, _config(train, out), train_dataset=data, processing_class=self.tokenizer
        )
        trainer.train()
        trainer.save_model(str(out))

    def rows(self, recipe: str) -> list[Row]:
        return training.rows(examples(recipe), self.tokenizer, settings(recipe))


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
        gradient_checkpointing=False,
        max_length=train.fit.max_length,
        save_strategy="no",
        disable_tqdm=True,
    )


def _run(way: Callable[[str, Path], None], recipe: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        way(recipe, Path(folder))
    gc.collect()


def figures() -> list[dict[str, Any]]:
    """demur / trl on the rows of each recipe; trl learns what demur would avoid."""
    mine, theirs = Sides(), Sides()
    cases: dict[str, Case] = {}
    for recipe in RECIPES:
        cases[recipe] = partial(_run, mine.demur, recipe)
        cases[f"trl {recipe}"] = partial(_run, theirs.trl, recipe)
    taken = times(cases, ROUNDS)
    ratios = [
        figure(
            f"{recipe} / trl's SFTTrainer, same rows",
            taken[recipe],
            taken[f"trl {recipe}"],
            TARGETS[recipe],
        )
        for recipe in RECIPES
    ]
    return ratios + [_memory(recipe) for recipe in RECIPES[:2]]


def _memory(recipe: str) -> dict[str, Any]:
    mine, theirs = (alone("benchmarks.step", side, recipe) for side in ("demur", "trl"))
    return figure(f"peak memory of {recipe} / trl's SFTTrainer", [mine], [theirs], 1)


def _peak(side: str, recipe: str) -> int:
    sides = Sides()
    way = sides.demur if side == "demur" else sides.trl
    before = peak_memory()
    _run(way, recipe)
    return peak_memory() - before


if __name__ == "__main__":
    print(_peak(*sys.argv[1:]))
