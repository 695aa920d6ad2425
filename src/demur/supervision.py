"""A row: ids, and what each of its positions is told.

It is told two things: the token to *learn* (``labels``) and the token to *move away from*
(``avoid``). Both are aligned with ``input_ids`` as transformers' own labels are: the target at
position t is predicted from position t - 1. Nowhere else is IGNORE written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from demur.chat import Turn

if TYPE_CHECKING:
    import torch

IGNORE = -100


@dataclass(frozen=True, slots=True)
class Row:
    """What the trainer reads: ids and two targets per position, all of one length."""

    kind: str
    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    avoid: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def tell(
        self,
        ids: Sequence[int],
        learn: Sequence[int] | None = None,
        avoid: Sequence[int] | None = None,
    ) -> Row:
        """The row with ``ids`` appended, and what these positions are told (nothing if None)."""
        nothing = (IGNORE,) * len(ids)
        return replace(
            self,
            input_ids=self.input_ids + tuple(ids),
            labels=self.labels + (nothing if learn is None else tuple(learn)),
            avoid=self.avoid + (nothing if avoid is None else tuple(avoid)),
        )

    @property
    def targets(self) -> int:
        """How many positions are told anything."""
        return sum(self._told())

    @property
    def first(self) -> int:
        """The first position that is told anything."""
        return next(place for place, told in enumerate(self._told()) if told)

    def _told(self) -> Iterator[bool]:
        return (a != IGNORE or b != IGNORE for a, b in zip(self.labels, self.avoid, strict=True))


def learn_row(turn: Turn, kind: str = "learn") -> Row:
    """SFT: learn the answer and the turn end."""
    told = turn.answer + turn.end
    return Row(kind).tell(turn.context).tell(told, learn=told)


def avoid_row(turn: Turn, special: frozenset[int], kind: str = "avoid") -> Row:
    """TA-SFT: move away from the answer's content, never from the turn end or a special token."""
    away = [IGNORE if token in special else token for token in turn.answer]
    return Row(kind).tell(turn.context).tell(turn.answer, avoid=away).tell(turn.end)


def prefix_row(unsafe: Turn, k: int, safe: Sequence[int], kind: str = "prefix") -> Row:
    """DeRTa: after ``k`` tokens of the unsafe answer, learn the safe one and its end."""
    return Row(kind).tell(unsafe.context + unsafe.answer[:k]).tell(safe, learn=safe)


def transition_row(
    unsafe: Turn,
    transition: Sequence[int],
    keep: Sequence[bool],
    special: frozenset[int] | None = None,
    end: int = IGNORE,
    kind: str = "transition",
    away: Sequence[bool] | None = None,
) -> Row:
    """DeRTa's RTO: at the positions of the unsafe answer that are kept, learn the transition.

    ``transition`` and ``keep`` [n] run over the answer; ``end`` is what to learn in place of the
    turn end. With ``special`` given the unsafe token itself is avoided too, where ``away`` [n] says
    so or, without it, at every position: both methods in one row.
    """
    learn = [token if kept else IGNORE for token, kept in zip(transition, keep, strict=True)]
    avoid = None
    if special is not None:
        told = [True] * len(keep) if away is None else away
        pairs = zip(unsafe.answer, told, strict=True)
        avoid = [token if here and token not in special else IGNORE for token, here in pairs]
    row = Row(kind).tell(unsafe.context).tell(unsafe.answer, learn=learn, avoid=avoid)
    slot, rest = unsafe.end[:1], unsafe.end[1:]
    return row.tell(slot, learn=[end] * len(slot)).tell(rest)


def crossed_row(prompt: Row, answer: Row, length: int) -> Row:
    """KTO's mismatch: the prompt of one row and, with its targets, the answer of another.

    An answer begins at its first target. Cut from the right to ``length`` tokens.
    """
    start, first = prompt.first, answer.first
    rest = slice(first, first + length - start)
    row = Row(answer.kind).tell(prompt.input_ids[:start])
    return row.tell(answer.input_ids[rest], answer.labels[rest], answer.avoid[rest])


def blank_row(pad: int) -> Row:
    """A row that is told nothing: fills the last batch so that every process has one."""
    return Row("blank").tell([pad, pad])


def collate(rows: Iterable[Row], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded [rows, longest] tensors: input_ids, attention_mask, labels, avoid.

    ``row`` numbers the row a position is of; ``transition`` [rows] marks those whose labels are a
    transition, which has its own weight.
    """
    import torch

    rows = list(rows)
    width = max(map(len, rows))

    def stack(values: Iterable[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*v, *[fill] * (width - len(v))] for v in values])

    return {
        "input_ids": stack((r.input_ids for r in rows), pad),
        "attention_mask": stack(([1] * len(r) for r in rows), 0),
        "labels": stack((r.labels for r in rows), IGNORE),
        "avoid": stack((r.avoid for r in rows), IGNORE),
        "row": torch.arange(len(rows))[:, None].repeat(1, width),
        "transition": torch.tensor([r.kind == "transition" for r in rows]),
    }
