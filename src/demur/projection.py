"""The head as three products: hidden states to logits, and a gradient of logits back again.

A product keeps the precision of what it writes to, float32 at least, also where the matrix is in
half precision: a logit of 20 rounded to bfloat16 is off by up to 0.06, and P by as much again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e30  # a logit with e^z = 0 and, unlike -inf, 0 · z = 0
TILE = 1 << 22  # numbers of a half-precision matrix that are widened at a time
WIDE_PRODUCTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)  # mm(out_dtype=)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """softcap · tanh(scale · (h Wᵀ + bias) / softcap): matrix [V, d], bias [V]."""

    matrix: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.matrix.dtype, torch.float32)

    def rows(self, count: int) -> Tensor:
        """An empty [count, V] to hold logits."""
        return self.matrix.new_empty(count, len(self.matrix), dtype=self.wide)

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """hidden [n, d] -> the first n rows of ``out``."""
        z = onto(hidden.to(self.matrix.dtype), self.matrix, out[: len(hidden)])
        if self.bias is not None:
            z.add_(self.bias.clamp(min=NEVER))
        if self.scale != 1.0:
            z.mul_(self.scale)
        return z.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else z

    def slope(self, z: Tensor) -> Tensor:
        """The soft-cap's derivative where it yields z, or -inf for a z whose e^z is too small."""
        if not self.softcap:
            return torch.ones_like(z)
        return 1 - (z.clamp(min=-self.softcap) / self.softcap).square()


class Rooms:
    """Where chunks [n, V] are written, kept from step to step where memory is slow to come by.

    A processor touches new memory page by page, which costs as much as a pass over it; a GPU's
    allocator keeps what it has had, and can lend it out in between.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, count: int, head: Head) -> Tensor:
        """[count, V] with anything in it; the same memory for the same name."""
        old = self._kept.get(name)
        if old is not None and _serves(old, count, head):
            return old[:count]
        self._kept.pop(name, None)  # before there are two
        new = head.rows(count)
        if not new.is_cuda:
            self._kept[name] = new
        return new


def _serves(room: Tensor, count: int, head: Head) -> bool:
    like = head.matrix
    fits = room.shape[0] >= count and room.shape[1] == len(like)
    return fits and room.dtype == head.wide and room.device == like.device


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """What has been added up for hidden [N, d], matrix [V, d] and bias [V]; None: not wanted."""

    hidden: Tensor | None
    matrix: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(
        cls, inputs: Sequence[Tensor | None], wanted: Sequence[bool], wide: torch.dtype
    ) -> Gradient:
        """For (hidden, weight, bias); what is summed over positions is summed in ``wide``."""
        types = (None, wide, wide)
        made = zip(inputs, wanted, types, strict=True)
        return cls(
            *(None if x is None or not w else torch.zeros_like(x, dtype=t) for x, w, t in made)
        )

    def like(self, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each in the precision of what it is the gradient of."""
        found = zip((self.hidden, self.matrix, self.bias), inputs, strict=True)
        return [None if g is None or x is None else g.to(x.dtype) for g, x in found]

    def add(self, dz: Tensor, at: Tensor, hidden: Tensor, head: Head) -> None:
        """The part of the positions ``at``, whose logits have the gradient dz [n, V]."""
        if self.hidden is not None:
            dh = back(dz, head.matrix).mul_(head.scale)  # dh = scale · dz W
            self.hidden[at] = dh.to(self.hidden.dtype)
        if self.matrix is not None:
            rows = hidden[at].to(head.matrix.dtype)
            outer(dz, rows, self.matrix, head.scale)  # dW += scale · dzᵀ h
        if self.bias is not None:
            self.bias.add_(dz.sum(0), alpha=head.scale)


def pieces(total: int, most: int) -> Iterator[slice]:
    """range(total) in as few slices as hold ``most`` each, all of about one size."""
    count = -(-total // most)
    for i in range(count):
        yield slice(total * i // count, total * (i + 1) // count)


def onto(rows: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """rows @ matrixᵀ: [n, d], [V, d] -> out [n, V]."""
    if _mixed(matrix):
        return torch.mm(rows.to(matrix.dtype), matrix.T, out_dtype=out.dtype, out=out)
    for part, tile in _tiles(matrix, out.dtype):
        torch.mm(rows.to(out.dtype), tile.T, out=out[:, part])
    return out


def back(weights: Tensor, matrix: Tensor) -> Tensor:
    """weights @ matrix: [n, V], [V, d] -> [n, d]."""
    if _mixed(matrix):
        return torch.mm(weights.to(matrix.dtype), matrix, out_dtype=weights.dtype)
    total = weights.new_zeros(len(weights), matrix.shape[1])
    for part, tile in _tiles(matrix, weights.dtype):
        total.addmm_(weights[:, part], tile)
    return total


def outer(weights: Tensor, rows: Tensor, total: Tensor, scale: float) -> None:
    """total += scale · weightsᵀ @ rows: [n, V], [n, d] -> [V, d]."""
    if _mixed(rows):
        half = weights.to(rows.dtype)
        torch.addmm(total, half.T, rows, out_dtype=total.dtype, alpha=scale, out=total)
    else:
        total.addmm_(weights.T, rows.to(total.dtype), alpha=scale)


def _mixed(matrix: Tensor) -> bool:
    """Whether one kernel multiplies halves and sums, and writes, in float32."""
    half = matrix.dtype in (torch.bfloat16, torch.float16)
    return WIDE_PRODUCTS and matrix.is_cuda and half


def _tiles(matrix: Tensor, wide: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a matrix in wider precision, a few at a time where that needs a copy."""
    size = len(matrix) if matrix.dtype == wide else max(1, TILE // matrix.shape[1])
    for start in range(0, len(matrix), size):
        part = slice(start, start + size)
        yield part, matrix[part].to(wide)
