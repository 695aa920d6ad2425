"""`gcg`: a suffix of tokens, found by gradients, after which an affirmative answer is likely.

Greedy Coordinate Gradient (Zou et al., "Universal and Transferable Adversarial Attacks on Aligned
Language Models", arXiv 2307.15043, algorithm 1; with `universal` algorithm 2, all behaviors at
once instead of one more at a time). Needs the model's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic import Field

from demur.attacks import _search
from demur.attempts import NOWHERE, Kept
from demur.errors import UserError
from demur.records import Attempt, Behavior

if TYPE_CHECKING:
    from demur.attacks._slots import Ids, Slot

WEIGHTS = True  # it reads likelihoods, which a served model does not give


class Settings(_search.Wanted):
    """The budget: every step asks the model ``candidates`` times and takes one gradient."""

    steps: int = Field(100, gt=0, description="tokens replaced, one after the other (paper: 500)")
    candidates: int = Field(64, gt=0, description="replacements tried a step (paper: 512)")
    topk: int = Field(64, gt=0, description="tokens a position is offered (paper: 256)")
    batch: int = Field(16, gt=0, description="candidates the model reads together")
    suffix: str = Field(
        " !" * 20, min_length=1, description="what the search begins with, in printable ASCII"
    )
    universal: bool = Field(False, description="one suffix for all behaviors")


def searches(behaviors: Sequence[Behavior], settings: Settings) -> list[list[Behavior]]:
    """The behaviors searched for together: each alone, or all for a universal suffix."""
    chosen = _search.drawn(behaviors, settings)
    return [chosen] if settings.universal and chosen else [[each] for each in chosen]


def attack(
    behaviors: Sequence[Behavior], target: Any, settings: Settings, kept: Kept = NOWHERE
) -> Iterator[Attempt]:
    """One attempt a behavior with the first suffix, and one with the suffix found.

    The variant is ``seed``, and ``search`` or ``universal``. ``detail`` has the lowest loss
    (nats a token) after every step. Raises UserError where template or tokenizer keep no suffix.
    """
    groups = searches(behaviors, settings)
    found = (_of_group(group, target, settings, kept) for group in groups)
    yield from _search.together(chain.from_iterable(found))


def _of_group(
    group: Sequence[Behavior], target: Any, settings: Settings, kept: Kept
) -> Iterator[Attempt]:
    from demur.attacks import _slots, _suffix

    slots, first = _opened(group, target, settings)
    luck, title = _search.luck(settings, group), f"gcg: {group[0].prompt:.23}"
    found = _suffix.search(target, slots, first, settings, luck, title, kept)
    seed = _suffix.Found(first, first, found.losses[:1], 0)
    ends = {"seed": seed} if settings.baseline else {}
    ends["universal" if settings.universal else "search"] = found
    for variant, end in ends.items():
        for behavior, slot in zip(group, slots, strict=True):
            text = behavior.prompt.rstrip() + _slots.text(target, slot, end.best)
            yield Attempt(
                behavior=behavior.id,
                attack="gcg",
                variant=variant,
                messages=_search.asked(text),
                queries=end.queries,
                detail={"losses": [round(loss, 4) for loss in end.losses]},
            )


def _opened(group: Sequence[Behavior], target: Any, settings: Settings) -> tuple[list[Slot], Ids]:
    """Every prompt with its room, and the ids of the first suffix, the same in all of them."""
    from demur.attacks import _slots

    file = _search.given(settings)
    opened = [
        _slots.slot(target, b.prompt.rstrip(), _search.wanted(b, file), settings.suffix)
        for b in group
    ]
    slots, first = [slot for slot, _ in opened], opened[0][1]
    if not _slots.stable(target, slots, [first]):
        raise UserError(
            f"gcg: suffix={settings.suffix[:40]!r} is not cut into the same tokens after every "
            "prompt: begin it with a space, or search for each behavior alone"
        )
    return slots, first
