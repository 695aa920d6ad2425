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
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from demur.chat import IGNORE
from demur.errors import UserError
from demur.fused_rows import WATCHED, Task, Toward, learn, learn_and_avoid, pieces, unit_rows
from demur.losses import Scale, Support, canonical
from demur.pages import unknown
from demur.projection import Gradient, Head, Rooms, onto

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


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """⟨ê_w, ê_y⟩ for T tokens y: ``rows`` [T, V] in ``unit``, ``row_of`` [V], -1 for the rest."""

    rows: Tensor
    row_of: Tensor
    unit: float


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What one step leaves for the next: cosines that need no product, and memory to write to."""

    table: Table | None = None
    rooms: Rooms = field(default_factory=Rooms)


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
        counts = _cosines(support, wanted[part], wide).div_(unit)
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
        term=_per_position(term),
        gate=-math.inf if gate is None else gate,
        margin=math.inf if margin is None else margin,
        constant=_constant(bound_scale, support),
        avoid_weight=avoid_weight / unit,
        support=support,
        excluded=_excluded(support, avoid),
        gradient=torch.is_grad_enabled(),
    )
    for told in (labels, avoid):
        _check(told, len(weight))
    room = _chunk(chunk, hidden, weight)
    plan = _Plan(task, weights / unit, scale, softcap, kept or Kept(), room)
    total, learned, sums = _Loss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, avoid, plan
    )
    avoided, *watched = sums.unbind()
    return Fused(total * unit, learned, avoided, dict(zip(WATCHED, watched, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """A task and how to go about it; ``weights`` [N] are the labels'."""

    task: Task
    weights: Tensor
    scale: float
    softcap: float | None
    kept: Kept
    chunk: int


def _weights(weight: float | Tensor, hidden: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.as_tensor(weight, dtype=wide, device=labels.device) * (labels != IGNORE)


def _unit(weights: Tensor, avoid_weight: float) -> Tensor:
    """The largest weight: with it taken out, a gradient in half precision does not underflow."""
    most = torch.cat([weights.abs(), weights.new_full((1,), abs(avoid_weight))]).amax()
    return most.where(most > 0, 1.0)


def _per_position(term: str) -> str:
    name = canonical(term)
    if name == "npo":
        raise UserError("term 'npo' is one number a sequence: use losses.npo on whole answers")
    return name


def _constant(scale: Scale, support: Support | None) -> float:
    if scale not in ("tight", "paper"):
        raise UserError(unknown("bound scale", scale, ["tight", "paper"]))
    return 0.5 if scale == "tight" or support is None else 0.5 / int(support.allowed.sum()) ** 2


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
        plan: _Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (hidden, weight, bias)
        head = Head(weight.to(_operand(hidden, weight)), bias, plan.scale, plan.softcap)
        wanted = [plan.task.gradient and needed for needed in ctx.needs_input_grad[:3]]
        gradient = Gradient.zeros(inputs, wanted, head.wide)
        with torch.autocast(hidden.device.type, enabled=False):
            learned, sums = _walk(hidden, labels, avoid, head, gradient, plan)
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


# Where a GPU is waited for, because shapes follow from values: once a pass for the tokens outside
# the support, the number of positions that only learn, and the targets without a row in the table;
# once a chunk that avoids, for the positions that are left to bring back.


def _walk(
    hidden: Tensor, labels: Tensor, avoid: Tensor, head: Head, gradient: Gradient, plan: _Plan
) -> tuple[Tensor, Tensor]:
    """A chunk of positions at a time, first those that only learn. -> learn [N], the sums [6]."""
    order = avoid.argsort(stable=True)  # IGNORE comes first, then target by target
    alone = int((avoid == IGNORE).sum())
    room = plan.kept.rooms.take("logits", min(plan.chunk, len(order)), head)
    weights = plan.weights.to(head.wide)
    learned, sums = room.new_zeros(len(order)), room.new_zeros(1 + len(WATCHED))
    for part in pieces(alone, plan.chunk):
        at = order[part]
        z = head.logits(hidden[at], room)
        learned[at] = learn(z, labels[at], weights[at], head, plan.task)
        gradient.add(z, at, hidden, head)
    for at, toward in _by_target(order[alone:], avoid[order[alone:]], head, plan):
        z = head.logits(hidden[at], room)
        told = (labels[at], weights[at], avoid[at])
        learned[at], more, live = learn_and_avoid(z, *told, toward, head, plan.task)
        sums += more
        gradient.add(*_moving(z, at, live), hidden, head)
    return learned, sums


def _moving(z: Tensor, at: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """z and its positions without those whose gradient is 0, where these are worth a copy."""
    if int(live.sum()) > 0.9 * len(at):
        return z, at
    left = live.nonzero()[:, 0]
    for part in pieces(len(left), 16):  # in place: a row never moves down
        z[part] = z[left[part]]
    return z[: len(left)], at[left]


def _by_target(
    order: Tensor, y: Tensor, head: Head, plan: _Plan
) -> Iterator[tuple[Tensor, Toward]]:
    """Chunks of the avoiding positions, each with the rows c it needs."""
    support, table, chunk = plan.task.support, plan.kept.table, plan.chunk
    if plan.task.term == "emd-bound":
        room = plan.kept.rooms.take("directions", min(chunk, len(order)), head)
        for part in pieces(len(order), chunk):
            at = order[part]
            yield at, Toward(room[: len(at)], torch.arange(len(at), device=at.device))
        return
    if table is not None:
        held = table.row_of[y] >= 0
        yield from _looked_up(order[held], y[held], table, chunk)
        order, y = order[~held], y[~held]
    if support is not None:
        yield from _computed(order, y, head, support, plan)


def _looked_up(
    order: Tensor, y: Tensor, table: Table, chunk: int
) -> Iterator[tuple[Tensor, Toward]]:
    for part in pieces(len(order), chunk):
        yield order[part], Toward(table.rows, table.row_of[y[part]], table.unit)


def _computed(
    order: Tensor, y: Tensor, head: Head, support: Support, plan: _Plan
) -> Iterator[tuple[Tensor, Toward]]:
    """The same with c = ⟨ê, ê_y⟩ computed once for each distinct y, a chunk of those at most."""
    targets, which = torch.unique_consecutive(y, return_inverse=True)
    room = plan.kept.rooms.take("directions", min(plan.chunk, len(targets)), head)
    numbers = which.tolist()
    for parts in _served(numbers, plan.chunk):
        first, last = numbers[parts[0].start], numbers[parts[-1].stop - 1]
        rows = _cosines(support, targets[first : last + 1], room)
        for part in parts:
            yield order[part], Toward(rows, which[part] - first)


def _served(numbers: list[int], chunk: int) -> Iterator[list[slice]]:
    """Chunks of positions, as many at once as a chunk of rows serves: fewer, larger products."""
    parts: list[slice] = []
    for part in pieces(len(numbers), chunk):
        if parts and numbers[part.stop - 1] - numbers[parts[0].start] >= chunk:
            yield parts
            parts = []
        parts.append(part)
    if parts:
        yield parts


def _cosines(support: Support, y: Tensor, out: Tensor) -> Tensor:
    """⟨ê_w, ê_y⟩, 0 for w outside the support: y [n] -> the first n rows of out [., V]."""
    unit = unit_rows(support, y, out.dtype)
    return onto(unit, support.embedding, out[: len(y)]).mul_(support.inverse_norm)
