"""What happens to a chunk of logits z [n, V] between the product that makes it and the one back.

Each function turns z in place into its gradient by what its positions are told, weighted, and
returns the sums to report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from demur.fused_passes import Toward, shares, soften, tilt
from demur.fused_table import unit_rows
from demur.projection import NEVER, Head, back, onto
from demur.supervision import IGNORE
from demur.supports import Support


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked, checked.

    ``constant`` multiplies the bound's ‖μ - ê_y‖²; ``avoid_weight`` is a number, where the logits
    are; ``excluded`` are the tokens, X, outside the support; ``gradient`` says whether one is
    wanted.
    """

    term: str
    gate: float
    margin: float
    constant: float
    avoid_weight: Tensor
    support: Support | None
    excluded: Tensor
    gradient: bool


def learn(z: Tensor, labels: Tensor, weight: Tensor, head: Head, task: Task) -> Tensor:
    """-log P(label), 0 where there is none: labels and weight [n] -> [n]."""
    label = labels.clamp(min=0)
    at_label = _pick(z, label)
    total, _, _ = soften(z)
    if task.gradient:
        tilt(z, total, head, weight)
        _add(z, label, -weight * head.slope(at_label))  # P - δ
    return (total - at_label).where(labels != IGNORE, 0.0)


def learn_and_avoid(
    z: Tensor, labels: Tensor, weight: Tensor, y: Tensor, toward: Toward, head: Head, task: Task
) -> tuple[Tensor, Tensor, Tensor]:
    """The same [n], and summed: the term for the tokens y [n] to avoid and those of WATCHED, [6].

    The third, [n], says where z has a gradient at all: a label that counts, or a target that is
    open. y and X are taken out before the softmax and come back as columns of their own; what stays
    are the *others*, and q is the softmax over them.
    """
    support, bound = task.support, task.term == "emd-bound"
    assert support is not None
    label = labels.clamp(min=0)
    at_label, at_y, at_x = _pick(z, label), _pick(z, y), z[:, task.excluded]
    z.index_fill_(1, task.excluded, NEVER).scatter_(1, y[:, None], NEVER)
    others, energy, cosine = soften(z, None if bound else toward, energy=True)
    mass = _Mass(at_y, at_x, others, support.allowed[y])
    pull = _bound(z, y, mass, support, toward, task.constant) if bound else _emd(cosine, mass)
    p_target = (at_y - mass.full).exp()
    counted = support.allowed[y] & (p_target > task.gate) & (pull.emd < task.margin)
    value, push = _term(task.term, task.avoid_weight * counted.to(z.dtype), p_target, pull, mass)
    if task.gradient:
        push = push + _probability(weight, mass, mass.full)
        tilt(z, others, head, push.flat, toward, push.along)
        z.index_copy_(1, task.excluded, push.x * head.slope(at_x))
        _add(z, y, push.y * head.slope(at_y))
        _add(z, label, -weight * head.slope(at_label))
    share = mass.share - pull.emd  # c̄ - P_S(y) = (1 - P_S(y)) - (1 - c̄)
    each = (value.where(counted, 0.0), pull.emd, p_target, mass.entropy(energy), share, counted)
    nll = (mass.full - at_label).where(labels != IGNORE, 0.0)
    return nll, torch.stack([one.sum(dtype=z.dtype) for one in each]), counted | (weight != 0)


class _Mass:
    """log Σ e^z over y (if it is in the support), X, the others, and unions of them; each [n]."""

    def __init__(self, at_y: Tensor, at_x: Tensor, others: Tensor, inside: Tensor) -> None:
        self.at_y, self.at_x, self.others = at_y, at_x, others
        self.y = at_y.where(inside, -math.inf)
        self.rest = torch.logaddexp(others, at_x.logsumexp(1))  # all but y
        self.full = torch.logaddexp(self.rest, self.y)
        support = torch.logaddexp(others, self.y)
        self.hit = (self.y - support).exp()  # P_S(y)
        self.share = (others - support).exp()  # 1 - P_S(y)

    def entropy(self, energy: Tensor) -> Tensor:
        """Σ P (log Σ e^z - z), where the others' Σ q z is ``energy``."""
        p_y, p_others = (self.y - self.full).exp(), (self.others - self.full).exp()
        apart = self.full[:, None] - self.at_x
        at_x = ((-apart).exp() * apart).sum(1)
        return p_others * (self.full - energy) + at_x - p_y * self.log_p_y

    @property
    def log_p_y(self) -> Tensor:
        """log P(y), for a y in the support."""
        return F.logsigmoid(self.at_y - self.rest)


@dataclass(frozen=True, slots=True, eq=False)
class _Pull:
    """A term whose gradient is slope · P_S (c - c̄): its value, EMD, Σ q c and c_y; [n]."""

    value: Tensor
    emd: Tensor
    mean: Tensor
    own: Tensor
    slope: float


def _emd(cosine: Tensor, mass: _Mass) -> _Pull:
    emd = mass.share * (1 - cosine)  # 1 - c̄, with c̄ = (1 - P_S(y)) Σ q c + P_S(y)
    return _Pull(-emd, emd, cosine, torch.ones_like(cosine), 1.0)


def _bound(
    z: Tensor, y: Tensor, mass: _Mass, support: Support, toward: Toward, constant: float
) -> _Pull:
    """-constant · ‖u‖², u = μ - ê_y = (1 - P_S(y)) (Σ q ê - ê_y); c_w = ⟨ê_w, u⟩ into toward."""
    at_y, rows = unit_rows(support, y, z.dtype), toward.rows
    weighed = shares(z, mass.others, rows).mul_(support.inverse_norm)
    mean = back(weighed, support.embedding)  # Σ q ê
    u = mass.share[:, None] * (mean - at_y)
    onto(u, support.embedding, rows).mul_(support.inverse_norm)
    emd = mass.share * (1 - (mean * at_y).sum(1))
    value = -constant * u.square().sum(1)
    return _Pull(value, emd, (mean * u).sum(1), (at_y * u).sum(1), -2 * constant)


@dataclass(frozen=True, slots=True, eq=False)
class _Push:
    """dz: q (flat + along · c) for the others (no c: None), and the columns of y and X."""

    flat: Tensor
    y: Tensor
    x: Tensor
    along: Tensor | None = None

    def __add__(self, other: _Push) -> _Push:
        return _Push(self.flat + other.flat, self.y + other.y, self.x + other.x, self.along)


def _term(
    term: str, weight: Tensor, p_target: Tensor, pull: _Pull, mass: _Mass
) -> tuple[Tensor, _Push]:
    """The value of a term and its gradient times ``weight``; [n]."""
    match term:
        case "unlikelihood":  # -log(1 - P(y)); dz_y = P(y), dz_w = -P(y) P(w) / (1 - P(y))
            push = _probability(-weight * p_target, mass, mass.rest)
            return -F.logsigmoid(mass.rest - mass.at_y), replace(push, y=weight * p_target)
        case "gradient-ascent":  # log P(y); dz = δ_y - P
            push = _probability(-weight, mass, mass.full)
            rest = (mass.rest - mass.full).exp()  # 1 - P(y)
            return mass.log_p_y, replace(push, y=weight * rest)
        case _:
            return pull.value, _embedding(weight * pull.slope, pull, mass)


def _probability(weight: Tensor, mass: _Mass, total: Tensor) -> _Push:
    """weight · e^(z - total): P itself where ``total`` is the logarithm of all mass."""
    flat, y = (weight * (part - total).exp() for part in (mass.others, mass.y))
    return _Push(flat, y, weight[:, None] * (mass.at_x - total[:, None]).exp())


def _embedding(weight: Tensor, pull: _Pull, mass: _Mass) -> _Push:
    """weight · P_S (c - c̄), with P_S = (1 - P_S(y)) q and c̄ = (1 - P_S(y)) Σ q c + P_S(y) c_y."""
    along = weight * mass.share
    flat = -along * (mass.share * pull.mean + mass.hit * pull.own)
    y = along * mass.hit * (pull.own - pull.mean)  # c_y - c̄ = (1 - P_S(y)) (c_y - Σ q c)
    return _Push(flat, y, torch.zeros_like(mass.at_x), along)


def _pick(z: Tensor, columns: Tensor) -> Tensor:
    return z.gather(1, columns[:, None])[:, 0]


def _add(z: Tensor, columns: Tensor, values: Tensor) -> None:
    z.scatter_add_(1, columns[:, None], values[:, None])
