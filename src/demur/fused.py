"""The numbers and gradients of losses.py from hidden states, without positions × vocabulary.

Let z = h Wᵀ, y the token a position moves away from, X the tokens outside the support, and q the
softmax over the others: the support without y. Every loss here has a gradient of one shape,

    dz_w = q_w (flat + along · c_w)     for the others; flat and along are two numbers a position
    dz_y, dz_X                          a few columns, written one by one
    dh = dz W,  dW = dzᵀ h

where c is a direction in the embedding: ⟨ê_w, ê_y⟩, one row for each *distinct* target, or for
the bound ⟨ê_w, μ - ê_y⟩. Learning and avoiding thus share one dz and one product, and P, P_S and
1 - P(y) are q times masses known by their logarithms: no difference of nearly equal numbers. The
gradient is taken in the forward, a chunk of positions at a time, where the logits lay. Derived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from demur.errors import UserError
from demur.fused_rows import Task
from demur.fused_walk import Kept, Plan, walk
from demur.losses import WATCHED, Scale, bound_constant, per_position
from demur.projection import Gradient, Head
from demur.supervision import IGNORE
from demur.supports import Support

# Bytes of a chunk of logits and most positions in it: from there on more is not faster.
CHUNK = {"cpu": (128 << 20, 512), "cuda": (512 << 20, 2048)}


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """``loss`` = Σ learn_weight · ``learn`` + avoid_weight · ``avoid``; it alone has a graph.

    ``learn`` [N] is each label's cross-entropy, 0 where there is none; ``avoid`` sums the term
    over the avoided tokens and ``watched``, by name, the fields of losses.Avoided.
    """

    loss: Tensor
    learn: Tensor
    avoid: Tensor
    watched: dict[str, Tensor]


def loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    avoid: Tensor,
    support: Support | None,
    *,
    term: str = "emd",
    gate: float | None = 0.01,
    margin: float | None = 1.0,
    bound_scale: Scale = "tight",
    learn_weight: float | Tensor = 1.0,
    avoid_weight: float = 1.0,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
    kept: Kept | None = None,
) -> Fused:
    """Both losses of N positions: hidden [N, d], weight [V, d], labels and avoid [N] or IGNORE.

    Logits are softcap · tanh(scale · (h Wᵀ + bias) / softcap), in float32 at least, from operands
    rounded as autocast would; ``term``, ``gate``, ``margin`` and ``bound_scale`` are as in
    losses.avoid. Both weights (``learn_weight`` may be [N]) must be known before: the gradient is
    taken here, for those of hidden, weight and bias that require it, and the backward only
    multiplies it. ``chunk`` positions are worked on at a time (None: by device and vocabulary);
    ``kept`` is for the steps of one training to share. Targets missing in its table are computed.
    Positions told nothing cost 0, but also time: drop them before.
    Raises UserError for an unknown term or scale, for `npo`, for avoiding without a support, and,
    on a processor (a GPU would have to be waited for), for a target that no logit belongs to.
    """
    weights = _weights(learn_weight, hidden, labels)
    unit = _unit(weights, avoid_weight)
    task = Task(
        term=per_position(term),
        gate=-math.inf if gate is None else gate,
        margin=math.inf if margin is None else margin,
        constant=0.5 if support is None else bound_constant(bound_scale, support),
        avoid_weight=avoid_weight / unit,
        support=support,
        excluded=_excluded(support, avoid),
        gradient=torch.is_grad_enabled(),
    )
    for told in (labels, avoid):
        _check(told, len(weight))
    room = _chunk(chunk, hidden, weight)
    plan = Plan(task, weights / unit, scale, softcap, kept or Kept(), room)
    total, learned, sums = _Loss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, avoid, plan
    )
    avoided, *watched = sums.unbind()
    return Fused(total * unit, learned, avoided, dict(zip(WATCHED, watched, strict=True)))


def _weights(weight: float | Tensor, hidden: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.as_tensor(weight, dtype=wide, device=labels.device) * (labels != IGNORE)


def _unit(weights: Tensor, avoid_weight: float) -> Tensor:
    """The largest weight: with it taken out, a gradient in half precision does not underflow."""
    most = torch.cat([weights.abs(), weights.new_full((1,), abs(avoid_weight))]).amax()
    return most.where(most > 0, 1.0)


def _excluded(support: Support | None, avoid: Tensor) -> Tensor:
    if support is not None:
        return (~support.allowed).nonzero()[:, 0]
    if bool((avoid != IGNORE).any()):
        raise UserError("there are tokens to avoid, but no support to say what lies near them")
    return avoid[:0]


def _check(told: Tensor, vocabulary: int) -> None:
    if told.is_cpu and len(wrong := told[(told != IGNORE) & ((told < 0) | (told >= vocabulary))]):
        raise UserError(
            f"{int(wrong[0])} is no token: a target is one of 0 to {vocabulary - 1}, or {IGNORE}"
        )


def _chunk(chunk: int | None, hidden: Tensor, weight: Tensor) -> int:
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk={chunk}: a chunk holds at least one position")
    size, most = CHUNK.get(hidden.device.type, CHUNK["cuda"])
    return chunk or max(1, min(most, size // (4 * len(weight))))


class _Loss(torch.autograd.Function):
    """The weighted loss and what it is made of; the gradient is ready when the forward returns."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        avoid: Tensor,
        plan: Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (hidden, weight, bias)
        head = Head(weight.to(_operand(hidden, weight)), bias, plan.scale, plan.softcap)
        wanted = [plan.task.gradient and needed for needed in ctx.needs_input_grad[:3]]
        gradient = Gradient.zeros(inputs, wanted, head.wide)
        with torch.autocast(hidden.device.type, enabled=False):
            learned, sums = walk(hidden, labels, avoid, head, gradient, plan)
        ctx.save_for_backward(*gradient.like(inputs))
        ctx.mark_non_differentiable(learned, sums)
        total = (plan.weights * learned).sum() + plan.task.avoid_weight * sums[0]
        return total, learned, sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what was saved has no graph
            raise RuntimeError("fused.loss has no second derivative: take it of losses.py's terms")
        return *(None if g is None else g * grad for g in ctx.saved_tensors), None, None, None


def _operand(hidden: Tensor, weight: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, weight.dtype)
