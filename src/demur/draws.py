"""What the rows of one example are drawn from."""

from __future__ import annotations

from random import Random


class Draws(Random):
    """Random numbers of one example in one epoch, and what no epoch changes.

    ``place`` is how many pairs of answers come before the example, for rules that count;
    ``lasting`` gives the same numbers in every epoch.
    """

    def __init__(self, seed: int | str, place: int = 0, lasting: int | str | None = None) -> None:
        super().__init__(seed)
        self.place, self.lasting = place, Random(seed if lasting is None else lasting)
