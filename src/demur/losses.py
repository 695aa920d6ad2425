"""What a position is told: to learn a token, or to move away from one.

Every function stops before the mean and leaves its graph to autograd, so that each line can be
held against its equation. It keeps positions × vocabulary in memory; a faster way to the same
numbers is judged by this one.

Notation, for one position:

    z        logits, already scaled and soft-capped as the model does it (the caller's part)
    P        softmax(z), what the model would say
    S, P_S   the support, and P restricted to it and renormalised
    ê_w      the output embedding of token w, divided by its length
    y        the unsafe token; c_w = ⟨ê_w, ê_y⟩, c̄ = Σ P_S(w) c_w, μ = Σ P_S(w) ê_w
    d_c      1 - ⟨ê_w, ê_v⟩, the price of carrying mass from w to v

Half precisions are computed in float32; float64 stays float64.

Sources: TA-SFT, arXiv 2412.06843 (the idea, and the bound as its Proposition 1); NPO,
arXiv 2404.05868; unlikelihood, arXiv 1908.04319. "Derived" marks what follows from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from demur.errors import UserError
from demur.pages import unknown
from demur.supports import Support

TERMS = ("emd", "emd-bound", "unlikelihood", "gradient-ascent", "npo")
# TA-SFT's second variant is named but not spelled out; negative log complement likelihood is
# the likeliest reading, and that is unlikelihood.
ALIASES = {"nlcl": "unlikelihood"}
Scale = Literal["tight", "paper"]
# The fields of Avoided that are watched beside the term.
WATCHED = ("emd", "p_target", "entropy", "semantic_share", "open")


def canonical(term: str) -> str:
    """The name in TERMS that ``term`` stands for. Raises UserError for a name nobody knows."""
    name = ALIASES.get(term, term)
    if name not in TERMS:
        raise UserError(unknown("avoid term", term, [*TERMS, *ALIASES]))
    return name


def per_position(term: str) -> str:
    """The `canonical` name of a term that each position has by itself; `npo` is refused."""
    name = canonical(term)
    if name == "npo":
        raise UserError("term 'npo' is one number a sequence: use npo() on sequence_logprob()")
    return name


def learn(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at each position, in nats: logits [N, V], labels [N] -> [N].

    A position whose label is cross-entropy's ignore index costs 0.
    """
    return F.cross_entropy(_wide(logits), labels, reduction="none")  # -log P(y)


def emd_one_hot(p: Tensor, y: Tensor, support: Support) -> Tensor:
    """EMD(P, δ_y; d_c), exactly: p [N, V] with its mass on the support, y [N] -> [N] in [0, 2].

    Where all mass must end in one place there is one way to carry it, so the optimal-transport
    problem has nothing to optimise. Derived.
    """
    p = _wide(p)
    c = _product(support.unit(p.dtype, y), support.unit(p.dtype).T)  # c_w = ⟨ê_w, ê_y⟩
    return 1 - (p * c).sum(-1)  # EMD = Σ P(w) (1 - c_w) = 1 - c̄


def emd_bound(p: Tensor, q: Tensor, support: Support, scale: Scale = "tight") -> Tensor:
    """A lower bound of EMD(P, Q; d_c) for any Q on the support: p, q [N, V] -> [N].

    "paper" is Proposition 1's constant, with the support as its V; "tight" is Jensen's
    inequality on d_c = ½‖ê_w - ê_v‖², larger by |V|² and reached by two one-hots. Derived.
    """
    moved = _wide(p) - _wide(q)
    apart = _product(moved, support.unit(moved.dtype)).square().sum(-1)  # ‖μ_P - μ_Q‖²
    return bound_constant(scale, support) * apart


def bound_constant(scale: Scale, support: Support) -> float:
    """What ‖μ_P - μ_Q‖² is multiplied by: 1/2, or 1/(2|S|²). Raises UserError for another scale."""
    if scale not in ("tight", "paper"):
        raise UserError(unknown("bound scale", scale, ["tight", "paper"]))
    return 0.5 if scale == "tight" else 0.5 / int(support.allowed.sum()) ** 2


def unlikelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-log(1 - P(y)): logits [N, V], targets [N] -> [N].

    Finite however near P(y) comes to 1, as long as some other logit is finite.
    """
    z, y = _wide(logits), targets.unsqueeze(-1)
    others = z.scatter(-1, y, -math.inf).logsumexp(-1)
    # 1 - P(y) = σ(log Σ_{w≠y} e^z_w - z_y): no difference of nearly equal numbers at either end
    return -F.logsigmoid(others - z.gather(-1, y).squeeze(-1))


@dataclass(frozen=True, slots=True, eq=False)
class Avoided:
    """One avoid term and what to watch beside it; every field is [N], only ``term`` has a graph.

    term            to be minimised; 0 where the position is not open
    emd             1 - c̄, under P_S
    p_target        P(y), under the full P
    entropy         of the full P, in nats
    semantic_share  c̄ - P_S(y): the part of c̄ that is not y itself but what lies near it
    open            whether the position is counted: y in the support, gate and margin not reached
    """

    term: Tensor
    emd: Tensor
    p_target: Tensor
    entropy: Tensor
    semantic_share: Tensor
    open: Tensor


def avoid(
    logits: Tensor,
    targets: Tensor,
    support: Support,
    *,
    term: str = "emd",
    gate: float | None = 0.01,
    margin: float | None = 1.0,
    bound_scale: Scale = "tight",
) -> Avoided:
    """Move the answer away from its unsafe tokens: logits [N, V], targets [N] -> Avoided of [N].

    Two distributions, on purpose. The embedding terms (`emd`, `emd-bound`) see P_S: an excluded
    token neither attracts nor repels, its logit gets a gradient of exactly 0, and only weights
    it shares with the rest can move it. `unlikelihood` and `gradient-ascent` know no embedding
    and see the full P, as do the gate and the log: what matters there is whether the model would
    say y at all.

    The embedding terms have no reason to stop: linear or concave in P, they end with all mass on
    the single token least like y. ``gate`` counts a position only while P(y) > gate, ``margin``
    only while EMD < margin (the gradient of a hinge; 1 is "orthogonal to y"); both apply to
    every term, and None switches one off. Divide the sum by the number of targets, open or not:
    the pressure then fades as positions close, where dividing by the open ones would put all of
    it on the last of them.

    Raises UserError for an unknown term and for `npo`, which is one number a sequence.
    """
    name, z = per_position(term), _wide(logits)
    # Excluded logits go before the softmax, not after. With no embedding an excluded token would
    # count as c_w = 0, often the least like y there is: -EMD would fill exactly those tokens,
    # first of all the turn end, and the model would learn to fall silent.
    inside = z.masked_fill(~support.allowed, -math.inf).softmax(-1)  # P_S
    emd = emd_one_hot(inside, targets, support)
    value = _value(name, z, inside, targets, emd, support, bound_scale)
    p, emd = z.detach().softmax(-1), emd.detach()
    p_target = _pick(p, targets)
    counted = support.allowed[targets]  # a target outside the support has no direction
    counted = counted if gate is None else counted & (p_target > gate)
    counted = counted if margin is None else counted & (emd < margin)
    return Avoided(
        term=value.where(counted, 0.0),
        emd=emd,
        p_target=p_target,
        entropy=torch.special.entr(p).sum(-1),  # -Σ P log P, with 0 log 0 = 0
        semantic_share=1 - emd - _pick(inside.detach(), targets),  # c̄ - P_S(y)
        open=counted,
    )


def sequence_logprob(
    logits: Tensor, targets: Tensor, segment_ids: Tensor, num_segments: int
) -> Tensor:
    """log π(answer) of each sequence: logits [N, V], targets and segment_ids [N] -> [S], nats."""
    logprob = -learn(logits, targets)  # log P(y_t)
    return logprob.new_zeros(num_segments).index_add(0, segment_ids, logprob)  # Σ_t log P(y_t)


def npo(policy_logprob: Tensor, reference_logprob: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation, per sequence: log-probabilities in nats [S] -> [S].

    Gradient ascent with a brake: its gradient is 2σ(βr) that of the policy's log-probability,
    so it ends as π falls below π_ref. Raises UserError unless beta > 0.
    """
    if not beta > 0:
        raise UserError(f"npo needs beta > 0, not {beta}; gradient-ascent is its limit at 0")
    ratio = _wide(policy_logprob) - _wide(reference_logprob).detach()  # r = log π/π_ref
    return -2 / beta * F.logsigmoid(-beta * ratio)  # (2/β) log(1 + (π/π_ref)^β)


def _value(
    name: str, z: Tensor, inside: Tensor, y: Tensor, emd: Tensor, support: Support, scale: Scale
) -> Tensor:
    match name:
        case "emd":
            return -emd  # c̄ - 1; gradient P_S(w) (c_w - c̄), which vanishes as P_S(y) -> 1
        case "emd-bound":
            one_hot = torch.zeros_like(inside).scatter(-1, y.unsqueeze(-1), 1.0)
            return -emd_bound(inside, one_hot, support, scale)  # -½ ‖μ - ê_y‖²
        case "unlikelihood":
            return unlikelihood(z, y)
        case _:
            return -learn(z, y)  # gradient ascent: log P(y)


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):  # which would round to half precision
        return a @ b


def _pick(p: Tensor, y: Tensor) -> Tensor:
    return p.gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
