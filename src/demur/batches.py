"""The order rows are trained in: kinds mixed evenly, redrawn each epoch, the last batch filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from random import Random
from typing import Any

from demur.chat import Row
from demur.errors import UserError

Draw = Callable[[int], list[Any]]  # rows, or pairs of them where there is no mix


class Epochs:
    """A map-style data set whose rows are drawn anew, from the seed, by ``set_epoch``.

    Every process holds the same rows in the same order, so one process and many see the same
    global batches. Blank rows fill the last one: the losses count targets, and blanks have none.
    Without a blank the epoch's first rows fill it, for losses that are means over rows.
    """

    def __init__(
        self, draw: Draw, mix: Mapping[str, int], seed: int, multiple: int, blank: Row | None
    ) -> None:
        self._draw, self._mix, self._seed = draw, mix, seed
        self._multiple, self._blank = multiple, blank
        self._epoch: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:  # data loaders announce each epoch more than once
            return
        self._epoch = epoch
        rows = order(self._draw(epoch), self._mix, Random(f"{self._seed} order {epoch}"))
        filling = cycle([self._blank] if self._blank else rows)
        self.rows = [*rows, *islice(filling, -len(rows) % self._multiple)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def order(rows: Sequence[Any], mix: Mapping[str, int], random: Random) -> list[Any]:
    """Rows shuffled; with a mix, in blocks that hold each kind in its proportion.

    The kind that lasts longest is passed through once, the others start over as often as needed.
    Raises UserError if the mix and the rows do not name the same kinds.
    """
    if not mix:
        return random.sample(rows, len(rows))
    streams = {kind: [row for row in rows if row.kind == kind] for kind in mix}
    _check(rows, streams, mix)
    blocks = max(-(-len(streams[kind]) // part) for kind, part in mix.items() if part)
    endless = {kind: _cycle(stream, random) for kind, stream in streams.items()}
    return [
        row
        for _ in range(blocks)
        for row in _shuffled([r for k, n in mix.items() for r in islice(endless[k], n)], random)
    ]


def _check(rows: Sequence[Row], streams: Mapping[str, list[Row]], mix: Mapping[str, int]) -> None:
    found = sorted({row.kind for row in rows})
    if min(mix.values()) < 0:
        raise UserError(f"train.mix={dict(mix)}: a part cannot be negative; 0 leaves a kind out")
    if any(not streams[kind] and part for kind, part in mix.items()) or set(found) - set(mix):
        raise UserError(
            f"train.mix={dict(mix)} and the rows do not agree: the rows are of the kinds "
            f"{', '.join(found)}; give each a part (0 leaves it out)"
        )
    if not any(mix.values()):
        raise UserError(f"train.mix={dict(mix)} leaves every kind out")


def _cycle(stream: list[Row], random: Random) -> Iterator[Row]:
    while True:
        yield from _shuffled(stream, random)


def _shuffled(rows: list[Row], random: Random) -> list[Row]:
    return random.sample(rows, len(rows))
