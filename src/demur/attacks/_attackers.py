"""Who proposes the prompts of `pair`: a model that writes them, or a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from demur.attacks import _pairing
from demur.attacks._pairing import Proposal
from demur.attacks._templates import Template
from demur.attacks._writers import Talk, Writer


class Attacker(Protocol):
    """Whoever proposes the next prompt of some streams, by their numbers and talks so far."""

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        """A proposal a stream, or why there is none. Raises UserError if nobody can be asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that has read what came of its last proposals."""

    writer: Writer

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        return [_pairing.read(reply) for reply in self.writer(talks, random)]


@dataclass(frozen=True, slots=True)
class Script:
    """Rewritings in a fixed order, whatever the target says; the streams take them in turn."""

    rewritings: Sequence[Template]
    question: str
    width: int

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        return [self._proposal(turn * self.width + stream) for stream in streams]

    def _proposal(self, place: int) -> Proposal | str:
        if place >= len(self.rewritings):
            return "the script is over"
        chosen = self.rewritings[place]
        return Proposal(improvement=chosen.name, prompt=chosen.fill(self.question))
