"""The greedy coordinate gradient over the tokens of a suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Protocol

import torch

from demur import chat
from demur.attacks import _search, _slots
from demur.attacks._slots import Ids, Slot
from demur.attempts import NOWHERE, Kept
from demur.generate import Target

DRAWS = 8  # for every candidate, before a step makes do with fewer


class Budget(Protocol):
    """What of gcg's settings the search reads."""

    @property
    def steps(self) -> int: ...
    @property
    def candidates(self) -> int: ...
    @property
    def topk(self) -> int: ...
    @property
    def batch(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search stands: the suffix it goes on with, and the best of all steps.

    ``losses`` are the lowest so far (nats a token), at first and after each step; ``queries`` the
    rows asked.
    """

    now: Ids
    best: Ids
    losses: tuple[float, ...]
    queries: int

    @property
    def note(self) -> str:
        return f"loss {self.losses[0]:.2f} → {self.losses[-1]:.2f}"


def search(
    target: Target,
    slots: Sequence[Slot],
    first: Ids,
    budget: Budget,
    luck: Callable[[int], Random],
    title: str,
    kept: Kept = NOWHERE,
) -> Found:
    """Algorithm 1 of arXiv 2307.15043: the best candidate of a step is next, better or not.

    What is handed back is the best of all steps.
    """

    def begun() -> Found:
        return Found(first, first, tuple(_losses(target, slots, [first], budget)), len(slots))

    def step(found: Found, number: int) -> Found:
        tried = _candidates(target, slots, found.now, budget, luck(number))
        scored = _losses(target, slots, tried, budget)
        so_far = found.losses[-1]
        lowest, now = min(zip(scored, tried, strict=True), default=(so_far, found.now))
        return Found(
            now,
            now if lowest < so_far else found.best,
            (*found.losses, min(lowest, so_far)),
            found.queries + len(slots) * (1 + len(tried)),
        )

    return _search.through(Found, begun, step, budget.steps, title, kept)


def _losses(
    target: Target, slots: Sequence[Slot], suffixes: Sequence[Ids], budget: Budget
) -> list[float]:
    """Of each suffix the mean over the prompts."""
    each = [_slots.nll(target, slot, suffixes, budget.batch) for slot in slots]
    return [sum(of_one) / len(slots) for of_one in zip(*each, strict=True)]


def _candidates(
    target: Target, slots: Sequence[Slot], now: Ids, budget: Budget, random: Random
) -> list[Ids]:
    """Different suffixes that keep their tokens, as many as the budget has where there are."""
    slope = _slots.gradient(target, slots, now)
    tokens = promising(slope, allowed(target.tokenizer, slope.shape[1]), budget.topk)
    found: dict[str, Ids] = {}
    for _ in range(DRAWS):
        some = [changed(now, tokens, random) for _ in range(budget.candidates)]
        found |= {str(ids): ids for ids in _slots.stable(target, slots, some) if ids != now}
        if len(found) >= budget.candidates:
            break
    return list(found.values())[: budget.candidates]


@lru_cache(maxsize=2)
def allowed(tokenizer: Any, rows: int) -> torch.Tensor:
    """[rows] of the embedding: whether a token is printable ASCII, and no markup."""
    special = chat.special_ids(tokenizer)
    known = range(min(len(tokenizer), rows))
    said = tokenizer.batch_decode([[i] for i in known], clean_up_tokenization_spaces=False)
    fine = [
        i not in special and bool(text) and text.isascii() and text.isprintable()
        for i, text in zip(known, said, strict=True)
    ]
    return torch.tensor(fine + [False] * (rows - len(known)))


def promising(slope: torch.Tensor, fine: torch.Tensor, k: int) -> list[Ids]:
    """For each position the ``k`` allowed tokens of steepest descent."""
    slope = slope.float().masked_fill(~fine.to(slope.device), torch.inf)
    return slope.topk(min(k, int(fine.sum())), largest=False).indices.tolist()


def changed(suffix: Ids, tokens: Sequence[Ids], random: Random) -> Ids:
    """The suffix with one position, drawn evenly, set to one of its tokens."""
    place = random.randrange(len(suffix))
    return [*suffix[:place], random.choice(tokens[place]), *suffix[place + 1 :]]
