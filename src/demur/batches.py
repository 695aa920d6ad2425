"""The order rows are trained in: kinds mixed evenly, redrawn each epoch, the last batch filled.

Which rows a step has is settled by the seed alone; `alike` and `even` only say how they are dealt
to its passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from heapq import heappop, heappush
from itertools import cycle, islice
from random import Random
from typing import Any

from demur.errors import UserError
from demur.supervision import Row

Draw = Callable[[int], list[Any]]  # rows, or pairs of them where there is no mix
Deal = Callable[[Sequence[Any]], Iterable[Any]]


class Epochs:
    """A map-style data set whose rows are drawn anew, from the seed, by ``set_epoch``.

    Every process holds the same rows in the same order, so one process and many see the same
    global batches. Blank rows fill the last one: the losses count targets, and blanks have none.
    Without a blank the epoch's first rows fill it, for losses that are means over rows. ``deal``
    orders the ``multiple`` rows of each step.
    """

    def __init__(
        self,
        draw: Draw,
        mix: Mapping[str, int],
        seed: int,
        multiple: int,
        blank: Row | None,
        deal: Deal = list,
    ) -> None:
        self._draw, self._mix, self._seed = draw, mix, seed
        self._multiple, self._blank, self._deal = multiple, blank, deal
        self._epoch: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:  # data loaders announce each epoch more than once
            return
        self._epoch = epoch
        rows = order(self._draw(epoch), self._mix, Random(f"{self._seed} order {epoch}"))
        filling = cycle([self._blank] if self._blank else rows)
        rows = [*rows, *islice(filling, -len(rows) % self._multiple)]
        steps = (rows[i : i + self._multiple] for i in range(0, len(rows), self._multiple))
        self.rows = [row for step in steps for row in self._deal(step)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def alike(step: Sequence[Row]) -> list[Row]:
    """The rows of a step by length, so that the passes that pad them pad little."""
    return sorted(step, key=len)


def even(step: Sequence[Row], size: int) -> list[Row]:
    """Longest processing time first: each row, from the longest on, to the smallest open pass.

    The smallest has the fewest tokens, and is open until it has ``size`` rows. A heuristic: passes
    become more alike than at random, as far as the lengths allow it.
    """
    full: list[list[Row]] = []
    open_: list[tuple[int, int, list[Row]]] = [(0, n, []) for n in range(len(step) // size)]
    for row in sorted(step, key=len, reverse=True):
        tokens, number, dealt = heappop(open_)
        dealt.append(row)
        if len(dealt) < size:
            heappush(open_, (tokens + len(row), number, dealt))
        else:
            full.append(dealt)
    return [row for dealt in full for row in dealt]


def taken(rows: Sequence[Row], mix: Mapping[str, int]) -> list[Row]:
    """The rows that are trained on: with a mix, those of the kinds it has a part for.

    Raises UserError if the mix and the rows do not name the same kinds.
    """
    if not mix:
        return list(rows)
    _check({row.kind for row in rows}, mix)
    return [row for row in rows if mix[row.kind]]


def order(rows: Sequence[Any], mix: Mapping[str, int], random: Random) -> list[Any]:
    """Rows shuffled; with a mix, in blocks that hold each kind in its proportion.

    The kind that lasts longest is passed through once, the others start over as often as needed.
    Raises UserError if the mix and the rows do not name the same kinds.
    """
    if not mix:
        return random.sample(rows, len(rows))
    rows = taken(rows, mix)
    streams = {kind: [row for row in rows if row.kind == kind] for kind in mix}
    blocks = max(-(-len(streams[kind]) // part) for kind, part in mix.items() if part)
    endless = {kind: _cycle(stream, random) for kind, stream in streams.items()}
    return [
        row
        for _ in range(blocks)
        for row in _shuffled([r for k, n in mix.items() for r in islice(endless[k], n)], random)
    ]


def _check(found: Set[str], mix: Mapping[str, int]) -> None:
    if min(mix.values()) < 0:
        raise UserError(f"train.mix={dict(mix)}: a part cannot be negative; 0 leaves a kind out")
    unknown = [kind for kind, part in mix.items() if part and kind not in found]
    left = sorted(found - mix.keys())
    if unknown or left:
        said = [f"names {', '.join(unknown)}"] * bool(unknown)
        said += [f"says nothing of {', '.join(left)}"] * bool(left)
        raise UserError(
            f"train.mix {' and '.join(said)}, but the rows are of the kinds "
            f"{', '.join(sorted(found))}: give each of these a part (0 leaves it out), or take "
            "every row with train.mix={}"
        )
    if not any(mix.values()):
        raise UserError(f"train.mix={dict(mix)} leaves every kind out")


def _cycle(stream: list[Row], random: Random) -> Iterator[Row]:
    while True:
        yield from _shuffled(stream, random)


def _shuffled(rows: list[Row], random: Random) -> list[Row]:
    return random.sample(rows, len(rows))
