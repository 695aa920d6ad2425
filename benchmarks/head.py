"""The loss head alone: hidden states in, loss and gradient out, the head frozen as under LoRA.

`python -m benchmarks head` measures; `python -m benchmarks.head WAY N V D` prints the peak memory
of one step, in bytes above what was there before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import alone, figure, forget_peak, peak_memory, times
from demur import fused, fused_table, fused_walk, losses, supports
from demur.supervision import IGNORE

OPEN = {"gate": None, "margin": None}  # closed positions cost less, and here all would be
Way = Callable[[Tensor], Tensor]  # targets [N] -> the gradient of the hidden states [N, d]
OTHERS = {
    "naive learn": "F.cross_entropy on logits",
    "torch": "torch's linear_cross_entropy",
    "trl": "trl's head",
}


@dataclass(frozen=True)
class Size:
    """How much is measured: N, V and d for seconds, and others for memory.

    ``memory`` names the losses whose peak is compared, each way in a process of its own.
    """

    positions: int = 2048
    vocabulary: int = 32_768
    width: int = 512
    chunk: int = 512
    rounds: int = 3
    large: tuple[int, int, int] = (2048, 131_072, 128)  # the width hardly touches memory
    memory: tuple[str, ...] = ("avoid", "learn")


FULL = Size()


class Head:
    """N positions before a frozen head, and targets of which a share are distinct."""

    def __init__(
        self, positions: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(positions, width).to(dtype)
        weight = (torch.randn(vocabulary, width) / 20).to(dtype)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.support = supports.support(self.weight, range(20), None)
        self.nothing = torch.full((positions,), IGNORE)
        self.kept = fused_walk.Kept()  # as a training has it

    def take(self, other: Head) -> None:
        """The other's numbers, in this one's precision."""
        self.hidden = other.hidden.to(self.hidden.dtype)
        self.weight.data = other.weight.to(self.weight.dtype)
        self.support = supports.support(self.weight, range(20), None)

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

    def naive_learn(self, y: Tensor) -> Tensor:
        return self.step(lambda h: F.cross_entropy(h @ self.weight.T, y, reduction="sum"))

    def ways(self, chunk: int | None = None) -> dict[str, Way]:
        """Ours and what people would use instead, as far as it is installed."""
        mine = {
            "learn": partial(self.learn, chunk=chunk),
            "avoid": partial(self.avoid, chunk=chunk),
        }
        plain = {"naive learn": self.naive_learn, "naive avoid": self.naive_avoid}
        return {**mine, **plain, **_torch(self, chunk or FULL.chunk), **_trl(self)}


def _torch(head: Head, chunk: int) -> dict[str, Way]:
    """torch's own, where this torch has it."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return {}
    options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)

    def loss(hidden: Tensor, y: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden, head.weight, y, reduction="sum", options=options)

    return {"torch": lambda y: head.step(lambda h: loss(h, y))}


def _trl(head: Head) -> dict[str, Way]:
    """What trl's SFTTrainer trains with, where it is installed: logits recomputed backwards."""
    try:
        from trl.kernels import ChunkedLogProbFunction
    except ImportError:
        return {}

    def loss(hidden: Tensor, y: Tensor) -> Tensor:
        log_p, *_ = ChunkedLogProbFunction.apply(
            hidden, head.weight, None, y, 1.0, 32_768, None, 1.0, ()
        )
        return -log_p.sum()

    return {"trl": lambda y: head.step(lambda h: loss(h, y))}


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """Every ratio, in about three minutes of two cores."""
    return (
        _speed(size) + _errors(size) + [one for kind in size.memory for one in _memory(kind, size)]
    )


def _speed(size: Size) -> list[dict[str, Any]]:
    head = Head(size.positions, size.vocabulary, size.width)
    some, many = head.targets(0.3), head.targets(0.5)
    table = fused_walk.Kept(fused_table.table(head.support, some), head.kept.rooms)
    avoid = partial(head.avoid, chunk=size.chunk)
    cases = {name: partial(way, some) for name, way in head.ways(size.chunk).items()}
    cases |= {
        "many": partial(avoid, many),
        "table": partial(avoid, some, kept=table),
        "bound": partial(avoid, some, term="emd-bound"),
    }
    return _ratios(times(cases, size.rounds))


def _ratios(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    learn, some = taken["learn"], taken["avoid"]
    found = [
        figure("exact EMD / cross-entropy, 0.3 N targets", some, learn, 1.3),
        figure("exact EMD / cross-entropy, 0.5 N targets", taken["many"], learn, 1.3),
        figure("exact EMD with a table / cross-entropy", taken["table"], learn, 1.05),
        figure("bound / cross-entropy", taken["bound"], learn),
        figure("naive EMD with autograd / exact EMD", taken["naive avoid"], some, 1.4, "higher"),
    ]
    return found + [
        figure(f"{name} / cross-entropy", taken[key], learn, better="higher")
        for key, name in OTHERS.items()
        if key in taken
    ]


def _errors(size: Size) -> list[dict[str, Any]]:
    """How far dh is off in bfloat16, against the naive way in float64 on the same numbers."""
    low = Head(size.positions // 8, size.vocabulary // 4, size.width, torch.bfloat16)
    high = Head(size.positions // 8, size.vocabulary // 4, size.width, torch.float64)
    high.take(low)
    y, names = low.targets(0.3), {"learn": "cross-entropy", "avoid": "exact EMD"}
    found = []
    for kind, name in names.items():
        mine, plain, truth = (
            low.ways()[kind](y),
            low.ways()[f"naive {kind}"](y),
            high.ways()[f"naive {kind}"](y),
        )
        errors = [[float((one.double() - truth).norm())] for one in (mine, plain)]
        found.append(figure(f"error of the gradient in bfloat16, {name} / naive", *errors, 1.0))
    return found


def _memory(kind: str, size: Size) -> list[dict[str, Any]]:
    against = {"naive avoid": "naive"} if kind == "avoid" else OTHERS
    name = "exact EMD" if kind == "avoid" else "cross-entropy"
    there = [way for way in against if way in Head(1, 100, 1).ways()]
    peak = {way: alone("benchmarks.head", way, *map(str, size.large)) for way in (kind, *there)}
    return [
        figure(
            f"peak memory, {name} / {against[way]}, V = {size.large[1]}",
            [peak[kind]],
            [peak[way]],
            0.15 if kind == "avoid" else None,
        )
        for way in there
    ]


def _peak(way: str, size: tuple[int, int, int]) -> int:
    small, large = Head(4, 100, 8), Head(*size)
    for head in (small, large):  # the small one loads what a first call loads
        y, before = head.targets(0.3 if head is large else 1.0), forget_peak()
        head.ways()[way](y)
    return peak_memory() - before


def _asked(given: list[str]) -> tuple[str, tuple[int, int, int]]:
    ways = [*Head(1, 100, 1).ways()]
    match given:
        case [way, *size] if way in ways and len(size) == 3 and all(map(str.isdecimal, size)):
            return way, (int(size[0]), int(size[1]), int(size[2]))
    sys.exit(f"python -m benchmarks.head WAY N V D, with a way of {', '.join(ways)}, got {given}")


if __name__ == "__main__":
    print(_peak(*_asked(sys.argv[1:])))
