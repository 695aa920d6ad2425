"""A training step on the packaged model, packed and padded; and what padding an epoch would cost.

`python -m benchmarks packing`. The demo's rows are those that its given answers make, all of
much the same length. Instruction data are not: their lengths spread as a log-normal with σ = 0.6
(the answers of GPT-3.5 on AlpacaEval, 0.62), which is what the other rows are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from math import log
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.measure import Case, figure, times
from demur import (
    adapters,
    config,
    heads,
    materials,
    models,
    objective,
    packing,
    supervision,
    terms,
    tokenizers,
    training,
)
from demur.batches import alike, even
from demur.fitting import Fit, Lora, Train
from demur.settings import Model
from demur.supervision import Row

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
SPREAD = 0.6
BF16 = torch.cuda.is_available()


@dataclass(frozen=True)
class Size:
    """Rows of a pass, passes of a step and rows of an epoch; lengths in tokens."""

    model: str = "smollm2-135m-instruct"
    rows: int = 8
    passes: int = 4  # where an epoch is counted
    epoch: int = 1024
    median: int = 80
    longest: int = 512  # kept short for a processor
    rounds: int = 2


FULL = Size()


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """Seconds of a LoRA step, and tokens of an epoch, as ratios; in two minutes of one core."""
    demo = _demo(size)
    natural = _natural(demo, size)
    return _speed({"demo": demo, "natural": natural}, size) + _tokens(natural, size)


def _speed(kinds: dict[str, list[Row]], size: Size) -> list[dict[str, Any]]:
    model = models.load(Model(name=size.model, dtype="float32"))
    model = adapters.with_lora(model, Lora(r=16, alpha=32), seed=0).train()
    cases: dict[str, Case] = {}
    for name, rows in kinds.items():
        step = Random(0).sample(rows, size.rows)
        cases[f"{name} packed"] = partial(_step, model, packing.pack(step), BF16)
        cases[f"{name} padded"] = partial(_step, model, supervision.collate(step, 0), BF16)
    taken = times(cases, size.rounds)
    targets = {"demo": 1.0, "natural": None}
    return [
        figure(
            f"step packed / padded at random, {name} rows",
            taken[f"{name} packed"],
            taken[f"{name} padded"],
            targets[name],
        )
        for name in kinds
    ]


def _tokens(rows: list[Row], size: Size) -> list[dict[str, Any]]:
    per_step = size.rows * size.passes
    steps = [rows[i : i + per_step] for i in range(0, len(rows), per_step)]
    dealt = {"at random": list, "by length": alike, "longest first": partial(even, size=size.rows)}
    passes = {name: [_cut(deal(step), size.rows) for step in steps] for name, deal in dealt.items()}
    told = sum(map(len, rows))
    found = [
        figure(f"places padded {name} / tokens, natural rows", [_places(passes[name])], [told])
        for name in ("at random", "by length")
    ]
    peaks = [
        figure(f"largest pass / mean, dealt {name}", [_largest(passes[name])], [1.0])
        for name in ("at random", "longest first")
    ]
    return found + peaks


def _demo(size: Size) -> list[Row]:
    run = config.load(DEMO)
    answered = [example for example in materials.read(run).train if example.chosen is not None]
    train = Train.model_validate({"recipe": "stl"})
    return training.rows(answered, tokenizers.load(Model(name=size.model)), train)


def _natural(rows: Sequence[Row], size: Size) -> list[Row]:
    """Rows of the same tokens, cut where an answer's length says; half of each is prompt."""
    random, stream = Random(0), cycle(chain.from_iterable(row.input_ids for row in rows))
    made = []
    for _ in range(size.epoch):
        length = min(size.longest, max(4, round(random.lognormvariate(log(size.median), SPREAD))))
        ids = list(islice(stream, length))
        made.append(Row("learn").tell(ids[: length // 2]).tell(*[ids[length // 2 :]] * 2))
    return made


def _step(model: Any, batch: dict[str, torch.Tensor], bf16: bool) -> None:
    """Loss and gradients of one pass, as the training takes them."""
    there = {name: values.to(model.device) for name, values in batch.items()}
    attention = packing.chosen(model, Fit(), bf16) if "ends" in batch else None
    with packing.attending(model, attention):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            decoder = adapters.bare(model).get_decoder()
            hidden = decoder(**packing.inputs(there), use_cache=False).last_hidden_state
            target, head = objective.Objective(), heads.head(model)
            loss, _ = terms.weighted(hidden, there, head, target, None, (1.0, 1.0, 0.0))
        loss.backward()
    model.zero_grad()


def _cut(rows: Iterable[Row], size: int) -> list[list[int]]:
    lengths = [len(row) for row in rows]
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


def _places(steps: Iterable[list[list[int]]]) -> int:
    """Positions, where each pass is padded to its longest row."""
    return sum(len(one) * max(one) for one in chain.from_iterable(steps))


def _largest(steps: Iterable[list[list[int]]]) -> float:
    """The tokens of a step's largest pass over those of its mean one; the mean of all steps."""
    ratios = [len(step) * max(map(sum, step)) / sum(map(sum, step)) for step in steps]
    return sum(ratios) / len(ratios)
