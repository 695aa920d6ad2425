"""The loss head alone: hidden states in, loss and gradient out, the head frozen as under LoRA.

`python -m benchmarks head` measures; `python -m benchmarks.head WAY` prints the peak memory of
one step, in bytes above what was there before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Case, alone, figure, peak_memory, times
from demur import fused, fused_table, fused_walk, losses
from demur.chat import IGNORE

POSITIONS, VOCABULARY, WIDTH = 2048, 32_768, 512
LARGE = (2048, 131_072, 128)  # for memory, which the width hardly touches
CHUNK = 512
ROUNDS = 3
OPEN = {"gate": None, "margin": None}  # closed positions cost less, and here all would be


class Head:
    """N positions before a frozen head, and targets of which a share are distinct."""

    def __init__(self, positions: int, vocabulary: int, width: int) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(positions, width)
        self.weight = torch.nn.Parameter(torch.randn(vocabulary, width) / 20, requires_grad=False)
        self.support = losses.support(self.weight, range(20), None)
        self.nothing = torch.full((positions,), IGNORE)
        self.kept = fused_walk.Kept()  # as a training has it

    def targets(self, distinct: float) -> Tensor:
        """[N] tokens of the support, ``distinct`` · N of them different."""
        tokens = torch.randperm(len(self.weight) - 20)[: int(distinct * len(self.hidden))] + 20
        return tokens[torch.arange(len(self.hidden)) % len(tokens)]

    def step(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        hidden = self.hidden.clone().requires_grad_()
        loss(hidden).backward()
        assert hidden.grad is not None
        return hidden.grad

    def learn(self, y: Tensor, **how: Any) -> Tensor:
        return self.step(lambda h: self._fused(h, y, self.nothing, **how))

    def avoid(self, y: Tensor, **how: Any) -> Tensor:
        return self.step(lambda h: self._fused(h, self.nothing, y, **how))

    def _fused(self, hidden: Tensor, labels: Tensor, avoid: Tensor, **how: Any) -> Tensor:
        how = {"kept": self.kept} | OPEN | how
        return fused.loss(hidden, self.weight, labels, avoid, self.support, **how).loss

    def naive_avoid(self, y: Tensor) -> Tensor:
        def loss(hidden: Tensor) -> Tensor:
            return losses.avoid(hidden @ self.weight.T, y, self.support, **OPEN).term.sum()

        return self.step(loss)


def _torch(head: Head, y: Tensor) -> dict[str, Case]:
    """torch's own, where this torch has it."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return {}
    options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=CHUNK)

    def loss(hidden: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden, head.weight, y, reduction="sum", options=options)

    return {"torch": lambda: head.step(loss)}


def _trl(head: Head, y: Tensor) -> dict[str, Case]:
    """What trl's SFTTrainer trains with, where it is installed: logits recomputed backwards."""
    try:
        from trl.kernels import ChunkedLogProbFunction
    except ImportError:
        return {}

    def loss(hidden: Tensor) -> Tensor:
        log_p, *_ = ChunkedLogProbFunction.apply(
            hidden, head.weight, None, y, 1.0, 32_768, None, 1.0, ()
        )
        return -log_p.sum()

    return {"trl": lambda: head.step(loss)}


def figures() -> list[dict[str, Any]]:
    """Every ratio, in about two minutes of two cores."""
    return _speed() + _memory()


def _speed() -> list[dict[str, Any]]:
    head = Head(POSITIONS, VOCABULARY, WIDTH)
    some, many = head.targets(0.3), head.targets(0.5)
    table = fused_walk.Kept(fused_table.table(head.support, some), head.kept.rooms)
    taken = times(
        {
            "learn": partial(head.learn, some, chunk=CHUNK),
            "some": partial(head.avoid, some, chunk=CHUNK),
            "many": partial(head.avoid, many, chunk=CHUNK),
            "table": partial(head.avoid, some, chunk=CHUNK, kept=table),
            "bound": partial(head.avoid, some, chunk=CHUNK, term="emd-bound"),
            "naive": partial(head.naive_avoid, some),
            **_torch(head, some),
            **_trl(head, some),
        },
        ROUNDS,
    )
    return _ratios(taken)


def _ratios(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    learn, some = taken["learn"], taken["some"]
    found = [
        figure("exact EMD / cross-entropy, 0.3 N targets", some, learn, 1.3),
        figure("exact EMD / cross-entropy, 0.5 N targets", taken["many"], learn, 1.3),
        figure("exact EMD with a table / cross-entropy", taken["table"], learn, 1.05),
        figure("bound / cross-entropy", taken["bound"], learn),
        figure("naive EMD with autograd / exact EMD", taken["naive"], some, 1.4, "higher"),
    ]
    others = {"torch": "torch's linear_cross_entropy", "trl": "trl's head"}
    return found + [
        figure(f"{name} / cross-entropy", taken[key], learn, better="higher")
        for key, name in others.items()
        if key in taken
    ]


def _memory() -> list[dict[str, Any]]:
    fused_way, naive = (alone("benchmarks.head", way) for way in ("fused", "naive"))
    name = f"peak memory, exact EMD / naive, V = {LARGE[1]}"
    return [figure(name, [fused_way], [naive], 0.15)]


def _peak(way: str) -> int:
    small, large = Head(4, 100, 8), Head(*LARGE)
    for head in (small, large):  # the small one loads what a first call loads
        y, before = head.targets(0.3 if head is large else 1.0), peak_memory()
        head.avoid(y) if way == "fused" else head.naive_avoid(y)
    return peak_memory() - before


if __name__ == "__main__":
    print(_peak(sys.argv[1]))
