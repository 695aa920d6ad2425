"""Greedy decoding with a batch that stays full: a row that ends gives its place to the next prompt.

With few rows a step costs what reading the weights costs, so that an empty place is time lost.
New rows are read together and joined to the running cache; all rows end in its last column. What
every prompt opens with is read once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch.nn.functional import pad as padded
from transformers import DynamicCache, DynamicLayer

from demur import adapters

SHARED = 16  # a common opening of fewer tokens is not worth a pass of its own


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """An answer under way: of which prompt, and how many tokens it may have."""

    place: int
    prompt: list[int]
    limit: int
    said: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Batch:
    """Rows with their cache, the columns of it that each sees [n, w], and what each says next."""

    rows: list[Row]
    cache: Any
    mask: torch.Tensor
    token: torch.Tensor

    def step(self, model: Any) -> None:
        """Read what was said last, and say the next token."""
        position = self.mask.sum(1, keepdim=True)
        self.mask = padded(self.mask, (0, 1), value=1)
        self.token = _likeliest(model, self.token[:, None], self.mask, position, self.cache)

    def settle(self, stop: Set[int]) -> list[Row]:
        """Note what was said. The rows that it ends leave, and are returned."""
        going, ended = [], []
        for place, (row, token) in enumerate(zip(self.rows, self.token.tolist(), strict=True)):
            if token not in stop:
                row.said.append(token)
            over = token in stop or len(row.said) == row.limit
            ended.append(row) if over else going.append(place)
        if ended:
            self._keep(going)
        return ended

    def _keep(self, places: list[int]) -> None:
        index = torch.tensor(places, dtype=torch.long, device=self.mask.device)
        self.rows = [self.rows[place] for place in places]
        self.mask, self.token = self.mask[index], self.token[index]
        self.cache.reorder_cache(index)  # selects too; recurrent states have nothing else
        if is_plain(self.cache):
            self._trim()

    def _trim(self) -> None:
        """Drop the columns that no row sees."""
        seen = self.mask.any(0).nonzero()[:, 0]
        if len(seen) == self.mask.shape[1]:
            return
        self.mask = self.mask[:, seen]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, seen], layer.values[:, :, seen]


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    *,
    stop: Set[int],
    pad: int,
    size: int,
) -> Iterator[list[tuple[int, list[int]]]]:
    """The likeliest continuation of each prompt: its place and ids without ``stop``, as they end.

    At most ``size`` rows are decoded together. Once a quarter of the places is free the next
    prompts take them; for a model that `can_refill` not, once all are.
    """
    waiting = deque(map(Row, range(len(prompts)), prompts, limits))
    refills = can_refill(model)
    opening = _opening(prompts) if refills else []
    begun = _read(model, opening)
    fewest = max(1, size // 4) if refills else size
    batch: Batch | None = None
    while waiting or batch:
        free = size - len(batch.rows) if batch else size
        if waiting and free >= fewest:
            rows = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            new = _prefilled(model, rows, begun, len(opening), pad)
            ended = new.settle(stop)
            batch = _joined(batch, new)
        elif batch:
            batch.step(model)
            ended = batch.settle(stop)
        batch = batch if batch and batch.rows else None
        if ended:
            yield [(row.place, row.said) for row in ended]


def can_refill(model: Any) -> bool:
    """Whether rows can join a running cache: plain full attention, told positions by their ids.

    Not so: sliding windows and recurrent states, which have no column for each token, and models
    that count their cache's columns themselves.
    """
    inner = adapters.bare(model)
    return bool(inner._supports_attention_backend) and is_plain(_empty(model))


def is_plain(cache: DynamicCache) -> bool:
    """Whether each layer keeps the keys and values of every token."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _empty(model: Any) -> DynamicCache:
    return DynamicCache(config=adapters.bare(model).config)


def _opening(prompts: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, if it is long; of each prompt at least a token is left."""
    if len(prompts) < 2:
        return []
    # What the first and the last in order have in common, all between them have too.
    pairs = zip(min(prompts), max(prompts), strict=False)
    shared = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    shared = shared[: min(map(len, prompts)) - 1]
    return shared if len(shared) >= SHARED else []


def _read(model: Any, opening: list[int]) -> DynamicCache:
    """A cache of one row that has read the opening."""
    cache = _empty(model)
    if opening:
        ids = torch.tensor([opening], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _prefilled(model: Any, rows: list[Row], begun: DynamicCache, read: int, pad: int) -> Batch:
    """Rows that have read their prompts, of which ``read`` tokens are in the cache ``begun``."""
    cache = deepcopy(begun)
    if read:
        cache.batch_repeat_interleave(len(rows))
    ids, mask = left_padded([row.prompt[read:] for row in rows], pad, model.device)
    mask = padded(mask, (read, 0), value=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)[:, read:]
    return Batch(rows, cache, mask, _likeliest(model, ids, mask, position, cache))


def _joined(old: Batch | None, new: Batch) -> Batch:
    """Both as one batch, the narrower cache padded on the left."""
    if not old or not new.rows:
        return old or new
    width = max(old.mask.shape[1], new.mask.shape[1])
    for ours, theirs in zip(old.cache.layers, new.cache.layers, strict=True):
        ours.keys = _stacked((ours.keys, theirs.keys), width, -2)
        ours.values = _stacked((ours.values, theirs.values), width, -2)
    mask = _stacked((old.mask, new.mask), width, -1)
    token = torch.cat([old.token, new.token])
    return Batch(old.rows + new.rows, old.cache, mask, token)


def _stacked(rows: Sequence[torch.Tensor], width: int, columns: int) -> torch.Tensor:
    """Rows of different widths as one tensor; the dimension ``columns`` counts from the last."""
    behind = (0, 0) * (-1 - columns)
    return torch.cat([padded(x, (*behind, width - x.shape[columns], 0)) for x in rows])


def _likeliest(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Any
) -> torch.Tensor:
    """The token [n] that follows ids [n, t]; the cache has read them afterwards."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    likeliest: torch.Tensor = output.logits[:, -1].argmax(-1)
    return likeliest


def left_padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [n, w], prompts ending in the last column."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
