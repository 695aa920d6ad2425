"""The terms of an objective, summed over the targets of a pass, and what is logged of them.

This file is the seam where hidden states, head and targets meet: everything before it is a
transformers model, everything after it a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur import fused, fused_table, losses
from demur.fused_walk import Kept
from demur.losses import WATCHED
from demur.objective import Objective
from demur.supervision import IGNORE

if TYPE_CHECKING:
    from demur.fused import Fused
    from demur.heads import Head
    from demur.supports import Support

TERMS = ("learn", "transition", "avoid")
SUMMED = (*TERMS, *(f"{term}_n" for term in TERMS), "watched_n", *WATCHED)


@dataclass(slots=True)
class Sums:
    """Sums over the positions of one forward pass; the three terms carry gradients.

    ``counts`` holds, detached, what is logged: the number of terms and the sums of EMD, P(y),
    entropy, semantic share c̄ - P(y) and of open (not gated) positions.
    """

    learn: torch.Tensor
    transition: torch.Tensor
    avoid: torch.Tensor
    counts: dict[str, torch.Tensor]


def sums(
    hidden: torch.Tensor,
    batch: dict[str, torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
    objective: Objective,
    support: Support | None,
) -> Sums:
    """Both terms, summed over every target of a batch, padded or packed.

    hidden: [rows, length, d] or [1, tokens, d], the final hidden states; ``head`` maps [N, d] to
    [N, V] logits, scale and soft-cap included. Only positions with a target reach the head.
    """
    labels, avoid = batch["labels"][:, 1:], batch["avoid"][:, 1:]
    told = (labels != IGNORE) | (avoid != IGNORE)
    logits = head(hidden[:, :-1][told])
    learning, away = labels[told] != IGNORE, avoid[told] != IGNORE
    nothing = logits[:0].sum()  # 0, with a graph: a pass may lack one kind
    each = losses.learn(logits[learning], labels[told][learning])
    moved = _moved(batch, told)[learning]
    learn, transition = each[~moved].sum(), each[moved].sum()
    counts = {
        "learn": learn.detach(),
        "learn_n": (~moved).sum(),
        "transition": transition.detach(),
        "transition_n": moved.sum(),
    }
    if support is None or not away.any():
        return Sums(learn, transition, nothing, counts)
    term, watched = _away(logits[away], avoid, batch, objective, support)
    return Sums(learn, transition, term, counts | watched)


def weighted(
    hidden: torch.Tensor,
    batch: dict[str, torch.Tensor],
    head: Head,
    objective: Objective,
    support: Support | None,
    factors: Sequence[float],
    kept: Kept | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The three sums times their factors, added up, and what is logged of them.

    Taken from the hidden states without positions × vocabulary, wherever the head is a matrix and
    nothing else; otherwise, and for `npo`, from logits. ``kept`` is what the steps share.
    """
    if not obstacle(head, objective) and bool(_told(batch).any()):
        return _fused(hidden, batch, head, objective, support, factors, kept)
    found = sums(hidden, batch, head, objective, support)
    terms = zip(factors, (found.learn, found.transition, found.avoid), strict=True)
    return sum((factor * term for factor, term in terms), hidden[:0].sum()), found.counts


def obstacle(head: Head, objective: Objective) -> str | None:
    """Why the losses take positions × vocabulary, if so."""
    return "npo compares whole answers" if objective.term == "npo" else head.obstacle


def kept(
    tokens: Iterable[int], head: Head, objective: Objective, support: Support | None
) -> Kept | None:
    """What the steps that avoid ``tokens`` share; None where logits are taken.

    With it comes a table of cosines, unless no step would read it: the bound needs others.
    """
    if obstacle(head, objective):
        return None
    if support is None or objective.term == "emd-bound":
        return Kept()
    return Kept(fused_table.affordable(support, tokens))


def _told(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (batch["labels"][:, 1:] != IGNORE) | (batch["avoid"][:, 1:] != IGNORE)


def _moved(batch: dict[str, torch.Tensor], told: torch.Tensor) -> torch.Tensor:
    """Of the targets at ``told``, which are in transition rows."""
    return batch["transition"][batch["row"][:, 1:][told]]


def _fused(
    hidden: torch.Tensor,
    batch: dict[str, torch.Tensor],
    head: Head,
    objective: Objective,
    support: Support | None,
    factors: Sequence[float],
    kept: Kept | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    told = _told(batch)
    labels, avoid = batch["labels"][:, 1:][told], batch["avoid"][:, 1:][told]
    avoid = torch.full_like(avoid, IGNORE) if support is None else avoid
    moved = _moved(batch, told)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    each = torch.tensor(factors[:2], dtype=wide, device=hidden.device)[moved.long()]
    found = fused.loss(
        hidden[:, :-1][told],
        head.module.weight,
        labels,
        avoid,
        support,
        term=objective.term,
        gate=objective.gate,
        margin=objective.margin,
        bound_scale=objective.bound_scale,
        learn_weight=each,
        avoid_weight=factors[2],
        bias=head.module.bias,
        scale=head.scale,
        softcap=head.softcap,
        kept=kept,
    )
    return found.loss, _counts(found, labels != IGNORE, avoid != IGNORE, moved)


def _counts(
    found: Fused, learning: torch.Tensor, away: torch.Tensor, moved: torch.Tensor
) -> dict[str, torch.Tensor]:
    parts = {"learn": learning & ~moved, "transition": learning & moved}
    counts = {name: found.learn[part].sum() for name, part in parts.items()}
    counts |= {f"{name}_n": part.sum() for name, part in parts.items()}
    if away.any():
        counts |= {"avoid": found.avoid, "avoid_n": away.sum(), "watched_n": away.sum()}
        counts |= found.watched
    return counts


def _away(
    logits: torch.Tensor,
    avoid: torch.Tensor,
    batch: dict[str, torch.Tensor],
    objective: Objective,
    support: Support,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The avoid term summed over its positions (over its sequences for `npo`), and the log."""
    away = avoid != IGNORE
    targets = avoid[away]
    term = "gradient-ascent" if objective.term == "npo" else objective.term
    options = objective.model_dump(include={"gate", "margin", "bound_scale"})
    each = losses.avoid(logits, targets, support, term=term, **options)
    total, terms = each.term.sum(), away.sum()
    if objective.term == "npo":
        rows = batch["row"][:, 1:][away]
        total = _npo(logits, targets, rows, batch["reference"], objective.beta)
        terms = rows.new_tensor(len(torch.unique(rows)))
    watched = {name: getattr(each, name).sum() for name in WATCHED}
    sizes = {"avoid_n": terms, "watched_n": away.sum()}
    return total, watched | sizes | {"avoid": total.detach()}


def _npo(
    logits: torch.Tensor,
    targets: torch.Tensor,
    rows: torch.Tensor,
    reference: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    policy = losses.sequence_logprob(logits, targets, rows, len(reference))
    sequences = torch.unique(rows)
    return losses.npo(policy[sequences], reference[sequences], beta).sum()


def count(batch: dict[str, torch.Tensor], objective: Objective) -> tuple[int, int, int]:
    """How many terms each sum of a batch has: positions, or sequences avoided for `npo`."""
    labels, away = batch["labels"][:, 1:] != IGNORE, batch["avoid"][:, 1:] != IGNORE
    rows, moved = batch["row"][:, 1:], int(_moved(batch, labels).sum())
    avoided = len(torch.unique(rows[away])) if objective.term == "npo" else int(away.sum())
    return int(labels.sum()) - moved, moved, avoided


def watch(totals: dict[str, float]) -> dict[str, float]:
    """What is logged, from sums over any number of passes: each the mean over its own count."""
    log = {t: totals[t] / totals[f"{t}_n"] for t in TERMS if totals[f"{t}_n"]}
    if totals["watched_n"]:
        log |= {name: totals[name] / totals["watched_n"] for name in WATCHED}
    return log


def avoided_logprob(
    hidden: torch.Tensor,
    batch: dict[str, torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """log π of each row's avoided tokens, [rows]; 0 for a row without any."""
    avoid = batch["avoid"][:, 1:]
    away = avoid != IGNORE
    rows, count = batch["row"][:, 1:][away], len(batch["transition"])
    return losses.sequence_logprob(head(hidden[:, :-1][away]), avoid[away], rows, count)
