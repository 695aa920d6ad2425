"""⟨ê_w, ê_y⟩ for the tokens y that are avoided: computed for a few, or once for all steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from demur.projection import onto, pieces
from demur.supervision import IGNORE
from demur.supports import Support


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """⟨ê_w, ê_y⟩ for T tokens y: ``rows`` [T, V] in ``unit``, ``row_of`` [V], -1 for the rest."""

    rows: Tensor
    row_of: Tensor
    unit: float


def table(
    support: Support, tokens: Iterable[int] | Tensor, dtype: torch.dtype = torch.int8
) -> Table:
    """The cosine of every token with each of ``tokens``, so that no step need compute it.

    Takes T·V numbers of ``dtype``: a floating-point type, or int8 (within 1/254 of the cosine).
    IGNORE is left out, so that ``tokens`` may be a row's targets as they are.
    """
    ids = sorted({*(tokens.tolist() if isinstance(tokens, Tensor) else tokens)} - {IGNORE})
    wanted = torch.tensor(ids, dtype=torch.long, device=support.allowed.device)
    unit = 1.0 if dtype.is_floating_point else 1 / 127
    rows = torch.empty(len(wanted), len(support.allowed), dtype=dtype, device=wanted.device)
    wide = torch.empty_like(rows[:256], dtype=support.inverse_norm.dtype)
    for part in pieces(len(wanted), 256):
        counts = cosines(support, wanted[part], wide).div_(unit)
        rows[part] = (counts if dtype.is_floating_point else counts.round_()).to(dtype)
    row_of = torch.full_like(support.allowed, -1, dtype=torch.long)
    row_of[wanted] = torch.arange(len(wanted), device=wanted.device)
    return Table(rows, row_of, unit)


def affordable(support: Support, tokens: Iterable[int]) -> Table | None:
    """A table of the most frequent ``tokens`` in int8, no larger than the embedding itself.

    Without those outside the support, whose rows are 0. None for none, and in float64, which is
    asked for by whoever compares every digit.
    """
    embedding = support.embedding
    most = embedding.shape[1] * embedding.element_size()  # a row takes V bytes of V · d · size
    inside = support.allowed.tolist()
    counted = Counter(t for t in tokens if t != IGNORE and inside[t]).most_common(most)
    if not counted or embedding.dtype == torch.float64:
        return None
    return table(support, [token for token, _ in counted])


def cosines(support: Support, y: Tensor, out: Tensor) -> Tensor:
    """⟨ê_w, ê_y⟩, 0 for w outside the support: y [n] -> the first n rows of out [., V]."""
    unit = unit_rows(support, y, out.dtype)
    return onto(unit, support.embedding, out[: len(y)]).mul_(support.inverse_norm)


def unit_rows(support: Support, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """ê of some tokens [n, d], 0 outside the support."""
    return support.embedding[tokens].to(dtype) * support.inverse_norm[tokens, None].to(dtype)
