"""The two passes over a chunk of logits as Triton kernels, for float32 on a GPU.

The first reads z once and leaves it; the second reads it again and writes the gradient over it:
three passes over positions × vocabulary, and two over the cosines, whatever is asked. What they
compute is said in `fused_rows`, which also computes it without them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns a program works on at a time
WARPS = 8


def soften(
    z: Tensor, rows: Tensor | None, which: Tensor | None, unit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ e^z, Σ q z and, with c = unit · rows[which], Σ q c for q = softmax(z): [n, V] -> [n].

    Without ``rows`` the third is 0. z stays as it is.
    """
    total, mean, along = (z.new_zeros(len(z)) for _ in range(3))
    if len(z):
        given = (z, which) if rows is None else (rows, which)
        _soften[(len(z),)](
            z, *given, total, mean, along, unit, z.stride(0), given[0].stride(0), z.shape[1],
            TOWARD=rows is not None, BLOCK=_block(z), num_warps=WARPS,
        )  # fmt: skip
    return total, mean, along


def tilt(
    z: Tensor,
    total: Tensor,
    flat: Tensor,
    softcap: float | None,
    rows: Tensor | None,
    which: Tensor | None,
    along: Tensor | None,
) -> None:
    """z becomes q (flat + along · rows[which]), times the soft-cap's slope; q = e^(z - total)."""
    if not len(z):
        return
    given = (z, which, flat) if rows is None else (rows, which, along)
    grid = (len(z), triton.cdiv(z.shape[1], _block(z)))
    _tilt[grid](
        z, *given, total, flat, softcap or 1.0, z.stride(0), given[0].stride(0), z.shape[1],
        TOWARD=rows is not None, SOFTCAP=bool(softcap), BLOCK=_block(z), num_warps=WARPS,
    )  # fmt: skip


def works(device: torch.device) -> bool:
    """Whether a kernel can be built here: Triton needs a C compiler, which not everybody has."""
    try:
        z = torch.zeros(1, 2, device=device)
        total, _, _ = soften(z, None, None, 1.0)
        return abs(float(total) - 0.6931) < 1e-3  # log 2
    except Exception:  # of the compiler, of the driver: whatever it is, there is another way
        return False


def _block(z: Tensor) -> int:
    return int(min(BLOCK, triton.next_power_of_2(z.shape[1])))


@triton.jit
def _soften(
    z_at, c_at, which_at, total_at, mean_at, along_at, unit, z_stride, c_stride, columns,
    TOWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    z_at += row * z_stride
    if TOWARD:
        c_at += tl.load(which_at + row) * c_stride
    # The largest logit so far, and the sums over e^(z - largest), with z and with c.
    largest, sum_e, sum_z, sum_c = -1e30, 0.0, 0.0, 0.0
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        there = column < columns
        z = tl.load(z_at + column, mask=there, other=-1e30)
        higher = tl.maximum(largest, tl.max(z, axis=0))
        shrink = tl.exp(largest - higher)
        e = tl.where(there, tl.exp(z - higher), 0.0)
        sum_e = sum_e * shrink + tl.sum(e, axis=0)
        sum_z = sum_z * shrink + tl.sum(e * z, axis=0)
        if TOWARD:
            c = tl.load(c_at + column, mask=there, other=0).to(tl.float32)
            sum_c = sum_c * shrink + tl.sum(e * c, axis=0)
        largest = higher
    tl.store(total_at + row, largest + tl.log(sum_e))
    tl.store(mean_at + row, sum_z / sum_e)
    if TOWARD:
        tl.store(along_at + row, sum_c / sum_e * unit)


@triton.jit
def _tilt(
    z_at, c_at, which_at, along_at, total_at, flat_at, softcap, z_stride, c_stride, columns,
    TOWARD: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < columns
    z = tl.load(z_at + row * z_stride + column, mask=there, other=-1e30)
    factor = tl.load(flat_at + row)
    if TOWARD:
        c_at += tl.load(which_at + row) * c_stride
        c = tl.load(c_at + column, mask=there, other=0).to(tl.float32)
        factor += tl.load(along_at + row) * c
    dz = tl.exp(z - tl.load(total_at + row)) * factor
    if SOFTCAP:
        bent = tl.maximum(z, -softcap) / softcap
        dz *= 1 - bent * bent
    tl.store(z_at + row * z_stride + column, dz, mask=there)
