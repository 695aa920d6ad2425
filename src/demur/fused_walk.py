"""In which order the positions of a pass are worked on, and what each chunk of them needs.

First those that only learn, then those that avoid, target by target: a row of cosines serves all
positions of its token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from demur.fused_passes import Toward
from demur.fused_rows import Task, learn, learn_and_avoid
from demur.fused_table import Table, cosines
from demur.losses import WATCHED
from demur.projection import Gradient, Head, Rooms, pieces
from demur.supervision import IGNORE
from demur.supports import Support


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What one step leaves for the next: cosines that need no product, and memory to write to."""

    table: Table | None = None
    rooms: Rooms = field(default_factory=Rooms)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A task and how to go about it; ``weights`` [N] are the labels'."""

    task: Task
    weights: Tensor
    scale: float
    softcap: float | None
    kept: Kept
    chunk: int


# Where a GPU is waited for, because shapes follow from values: once a pass for the tokens outside
# the support, the number of positions that only learn, and the targets without a row in the table;
# once a chunk that avoids, for the positions that are left to bring back.


def walk(
    hidden: Tensor, labels: Tensor, avoid: Tensor, head: Head, gradient: Gradient, plan: Plan
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


def _by_target(order: Tensor, y: Tensor, head: Head, plan: Plan) -> Iterator[tuple[Tensor, Toward]]:
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
    order: Tensor, y: Tensor, head: Head, support: Support, plan: Plan
) -> Iterator[tuple[Tensor, Toward]]:
    """The same with c = ⟨ê, ê_y⟩ computed once for each distinct y, a chunk of those at most."""
    targets, which = torch.unique_consecutive(y, return_inverse=True)
    room = plan.kept.rooms.take("directions", min(plan.chunk, len(targets)), head)
    numbers = which.tolist()
    for parts in _served(numbers, plan.chunk):
        first, last = numbers[parts[0].start], numbers[parts[-1].stop - 1]
        rows = cosines(support, targets[first : last + 1], room)
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
