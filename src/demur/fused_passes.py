"""The two passes over a chunk of logits z [n, V]: what the softmax sums to, and its gradient.

V-wide steps take a block of rows at a time, so that a cache holds it. On a GPU with Triton two
kernels do the same (`fused_triton`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from demur.projection import Head, pieces

BLOCK = {"cpu": 2 << 20, "cuda": 128 << 20}  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Toward:
    """The direction c of n positions: row ``which`` [n] of ``rows`` [., V], counted in ``unit``.

    c is ⟨ê, ê_y⟩; for the bound ``rows`` is room for ⟨ê, μ - ê_y⟩, which is found here.
    """

    rows: Tensor
    which: Tensor
    unit: float = 1.0

    def take(self, part: slice, out: Tensor) -> Tensor:
        """The rows of some positions, copied to ``out``."""
        if self.rows.dtype == out.dtype:
            return torch.index_select(self.rows, 0, self.which[part], out=out)
        return out.copy_(self.rows.index_select(0, self.which[part]))


def soften(
    z: Tensor, toward: Toward | None = None, energy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ e^z and, where asked, Σ q z and Σ q c for q = softmax(z); [n].

    What z becomes is for `shares` and `tilt` to know: here q, but a kernel leaves it.
    """
    if kernel := _kernel(z):
        return kernel.soften(z, *_given(toward))  # type: ignore[no-any-return]
    block, (total, mean, along) = _block(z), (z.new_zeros(len(z)) for _ in range(3))
    for part in pieces(len(z), len(block)):
        rows, q = z[part], block[: part.stop - part.start]
        torch.softmax(rows, -1, out=q)
        total[part] = rows.amax(-1) - q.amax(-1).log()
        if energy:
            mean[part] = rows.mul_(q).sum(-1)
        if toward is not None:
            along[part] = toward.take(part, rows).mul_(q).sum(-1) * toward.unit
        rows.copy_(q)
    return total, mean, along


def shares(z: Tensor, total: Tensor, out: Tensor) -> Tensor:
    """q, after `soften`."""
    return torch.sub(z, total[:, None], out=out).exp_() if _kernel(z) else out.copy_(z)


def tilt(
    z: Tensor,
    total: Tensor,
    head: Head,
    flat: Tensor,
    toward: Toward | None = None,
    along: Tensor | None = None,
) -> None:
    """After `soften`, z becomes q (flat + along · c), times the head's slope at the logit."""
    if toward is None or along is None:
        toward, gain = None, None
    else:
        gain = along * toward.unit
    if kernel := _kernel(z):
        rows, which, _ = _given(toward)
        return kernel.tilt(z, total, flat, head.softcap, rows, which, gain)  # type: ignore[no-any-return]
    block = _block(z)
    for part in pieces(len(z), len(block)):
        rows, factor = z[part], block[: part.stop - part.start]
        slope = head.slope(rows.log() + total[part, None]) if head.softcap else None
        if toward is None or gain is None:
            rows.mul_(flat[part, None])
        else:
            rows.mul_(toward.take(part, factor).mul_(gain[part, None]).add_(flat[part, None]))
        if slope is not None:
            rows.mul_(slope)
    return None


def _given(toward: Toward | None) -> tuple[Tensor | None, Tensor | None, float]:
    return (None, None, 1.0) if toward is None else (toward.rows, toward.which, toward.unit)


def _kernel(z: Tensor) -> Any:
    """Triton's way to both passes where there is one."""
    return _triton(z.device) if z.is_cuda and z.dtype == torch.float32 else None


@cache
def _triton(device: torch.device) -> Any:
    try:
        from demur import fused_triton
    except ImportError:
        return None
    return fused_triton if fused_triton.works(device) else None


def _block(z: Tensor) -> Tensor:
    size = BLOCK.get(z.device.type, BLOCK["cuda"])
    return z.new_empty(max(1, size // (z.element_size() * z.shape[1])), z.shape[1])
