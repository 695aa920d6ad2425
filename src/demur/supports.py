"""The tokens that an embedding term may move mass between, and where they lie.

Notation as in `losses`: ê_w is the output embedding of token w, divided by its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from demur.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """The tokens that may carry mass in an embedding term, and where they lie.

    ``embedding`` [V, d] holds the rows unnormalised (less their mean if ``centred``), in the
    model's own precision; ``inverse_norm`` [V] is 1/‖e_w‖, and 0 outside the support;
    ``allowed`` [V] is the support itself.
    """

    embedding: Tensor
    inverse_norm: Tensor
    allowed: Tensor
    centred: bool = False

    def to(self, device: torch.device | str) -> Support:
        """The same on another device."""
        rows, norm, allowed = (
            x.to(device) for x in (self.embedding, self.inverse_norm, self.allowed)
        )
        return Support(rows, norm, allowed, self.centred)

    def unit(self, dtype: torch.dtype, tokens: Tensor | None = None) -> Tensor:
        """ê_w [V, d] for every row, or for ``tokens``; a zero vector outside the support."""
        pick = slice(None) if tokens is None else tokens
        return self.embedding[pick].to(dtype) * self.inverse_norm[pick].to(dtype).unsqueeze(-1)


def support(
    embedding: Tensor, excluded_ids: Iterable[int], vocabulary: int | None, centre: bool = False
) -> Support:
    """A snapshot of the output embedding [V, d], less the rows no answer is made of.

    Out go ``excluded_ids`` (special tokens, the turn end), the rows from ``vocabulary`` (the
    tokenizer's length) on, which pad the matrix, and zero rows, which have no direction.
    ``centre`` subtracts the mean allowed row first: embeddings share a large common direction.
    Were the rows trainable the loss would fall by moving them, so they are copied; only a
    frozen Parameter, which stays where it is, is shared.
    Raises UserError for an id without a row, and where fewer than two tokens are left.
    """
    allowed = _wanted(embedding, excluded_ids, vocabulary) & (_norm(embedding) > 0)
    rows = _centred(embedding.detach(), allowed) if centre else _snapshot(embedding)
    norm = _norm(rows)
    allowed &= norm > 0
    if int(allowed.sum()) < 2:
        raise UserError(
            f"{int(allowed.sum())} of {len(rows)} tokens left to move mass between; "
            "exclude fewer ids or check the embedding and the vocabulary size"
        )
    return Support(rows, torch.where(allowed, 1 / norm, 0.0), allowed, centre)


def cosine_statistics(support: Support, pairs: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Mean, standard deviation and quantiles of ⟨ê_w, ê_v⟩ over random allowed pairs, w ≠ v.

    The mean is what "unrelated" looks like in this model: an EMD of 1 - mean.
    """
    tokens = support.allowed.nonzero().squeeze(1)
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(len(tokens), (pairs,), generator=random)
    step = torch.randint(1, len(tokens), (pairs,), generator=random)  # never a whole turn
    ends = torch.stack([first, (first + step) % len(tokens)]).to(tokens.device)
    cosine = support.unit(support.inverse_norm.dtype, tokens[ends]).prod(0).sum(-1)
    quantiles = torch.tensor([0.01, 0.05, 0.5, 0.95, 0.99]).to(cosine)
    names = ("mean", "std", "q01", "q05", "q50", "q95", "q99")
    values = [cosine.mean(), cosine.std(), *cosine.quantile(quantiles)]
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _wanted(embedding: Tensor, excluded_ids: Iterable[int], vocabulary: int | None) -> Tensor:
    rows, excluded = len(embedding), sorted(set(excluded_ids))
    if excluded and not 0 <= excluded[0] <= excluded[-1] < rows:
        raise UserError(
            f"excluded ids run from {excluded[0]} to {excluded[-1]}, the embedding's rows from 0 "
            f"to {rows - 1}; give ids of this model's tokenizer"
        )
    ids = torch.arange(rows, device=embedding.device)
    wanted = ids < (rows if vocabulary is None else vocabulary)
    wanted[excluded] = False
    return wanted


def _snapshot(embedding: Tensor) -> Tensor:
    frozen = isinstance(embedding, torch.nn.Parameter) and not embedding.requires_grad
    return embedding.detach() if frozen else embedding.detach().clone()


def _centred(embedding: Tensor, allowed: Tensor) -> Tensor:
    rows = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    return (rows - rows[allowed].mean(0)).to(embedding.dtype)


def _norm(rows: Tensor) -> Tensor:
    dtype = torch.promote_types(rows.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(rows.detach(), dim=-1, dtype=dtype)  # no wide copy
    return norm
