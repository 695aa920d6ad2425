"""A prompt with room for a suffix: what a suffix in it costs, and the gradient of that.

Everything before the suffix is read once and its keys and values are kept. A suffix counts only
if its text, put into the prompt, is cut into the very same tokens again: what was measured is then
what the model will read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache

from demur import adapters, chat, generate, losses, records
from demur.attacks._search import asked
from demur.errors import UserError
from demur.generate import Target
from demur.records import Attempt

Ids = list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A prompt around its suffix: text and ids before it and after it, keys and values before.

    The last ``wanted`` ids after it are the answer whose likelihood is searched for.
    """

    before: str
    after: str
    left: Ids
    right: Ids
    wanted: int
    cache: DynamicCache


def slot(target: Target, prompt: str, answer: str, suffix: str) -> tuple[Slot, Ids]:
    """The room after ``prompt`` in the chat template, and the ids of ``suffix`` in it.

    Raises UserError where the template does not keep the suffix, or the context is too short.
    """
    tokenizer, messages = target.tokenizer, asked(prompt + suffix)
    generate.prompt(target, Attempt(behavior="", attack="gcg", messages=messages, prefill=answer))
    opened = chat.prompt_ids(tokenizer, messages)
    before, kept, after = chat.prompt_text(tokenizer, messages, answer).rpartition(suffix)
    if not kept:
        raise UserError(f"the chat template does not keep the suffix {suffix[:40]!r}: name another")
    whole = chat.raw_ids(tokenizer, before + suffix + after)
    left = _shared(chat.raw_ids(tokenizer, before), whole)
    stop = len(whole) - _shared(chat.raw_ids(tokenizer, after)[::-1], whole[left:][::-1])
    wanted = len(whole) - _shared(opened, whole)
    cache = _read(target, whole[:left])
    found = Slot(before, after, whole[:left], whole[stop:], wanted, cache)
    return found, whole[left:stop]


def _shared(a: Ids, b: Ids) -> int:
    """How many ids two sequences begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@torch.no_grad()
def _read(target: Target, ids: Ids) -> DynamicCache:
    cache = DynamicCache(config=adapters.bare(target.model).config)
    asked = torch.tensor([ids], device=target.model.device)
    target.model(input_ids=asked, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def text(target: Target, slot: Slot, suffix: Ids) -> str:
    """The suffix as it stands in the prompt; SentencePiece keeps its first space after a token."""
    before, whole = (
        str(target.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (slot.left[-1:], slot.left[-1:] + suffix)
    )
    return whole.removeprefix(before)


def stable(target: Target, slots: Sequence[Slot], suffixes: Sequence[Ids]) -> list[Ids]:
    """The suffixes whose text is cut into the same tokens again in every prompt."""
    for place in slots:
        texts = [place.before + text(target, place, suffix) + place.after for suffix in suffixes]
        again = target.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        pairs = zip(suffixes, again, strict=True)
        suffixes = [suffix for suffix, ids in pairs if ids == place.left + suffix + place.right]
    return list(suffixes)


@torch.no_grad()
def nll(target: Target, slot: Slot, suffixes: Sequence[Ids], batch: int) -> list[float]:
    """Mean negative log-likelihood (nats a token) of the wanted answer after each suffix."""
    embed = target.model.get_input_embeddings()
    found: list[float] = []
    for some in records.batched(suffixes, batch):
        ids = torch.tensor([s + slot.right for s in some], device=target.model.device)
        found += _nll(target, slot, embed(ids)).tolist()
    return found


def _nll(target: Target, slot: Slot, embedded: torch.Tensor) -> torch.Tensor:
    """[rows], of [rows, suffix and right, d]."""
    cache = copy.deepcopy(slot.cache)
    cache.batch_repeat_interleave(len(embedded))
    output = target.model(
        inputs_embeds=embedded,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=slot.wanted + 1,
    )
    logits = output.logits[:, :-1]
    answer = torch.tensor(slot.right[-slot.wanted :], device=logits.device)
    labels = answer.repeat(len(logits))
    return losses.learn(logits.flatten(0, 1), labels).view(len(logits), -1).mean(1)


def gradient(target: Target, slots: Sequence[Slot], suffix: Ids) -> torch.Tensor:
    """[suffix, V]: how the loss would change with the share of each token at each position.

    The derivative by the one-hot matrix X [suffix, V] of the embedding X·W is that by the
    embedding times Wᵀ. Of several prompts the directions are added, each at length one.
    """
    embed = target.model.get_input_embeddings()
    found = torch.zeros(len(suffix), embed.weight.shape[1], device=embed.weight.device)
    for place in slots:
        ids = torch.tensor([suffix + place.right], device=target.model.device)
        whole = embed(ids).detach()
        free = whole[:, : len(suffix)].clone().requires_grad_()
        loss = _nll(target, place, torch.cat([free, whole[:, len(suffix) :]], dim=1)).sum()
        [slope] = torch.autograd.grad(loss, free)
        found += slope[0].float() / (slope.float().norm() if len(slots) > 1 else 1)
    slopes: torch.Tensor = found.to(embed.weight.dtype) @ embed.weight.detach().T
    return slopes
