"""Answers a second: demur's decoding against a plain padded `model.generate` loop.

The same prompts in batches of the same size, greedily, up to the same length; the answers end
where the model ends them, so that they are of uneven length. Counted are the tokens of answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.measure import figure, times
from demur import chat, decoding, generate, sources
from demur.attacks import direct
from demur.generate import Target
from demur.records import Attempt, Behavior
from demur.settings import Decoding, Model


@dataclass(frozen=True)
class Size:
    """How much is asked of which model."""

    model: str = "smollm2-135m-instruct"
    prompts: int = 32
    new_tokens: int = 64
    batch: int = 8
    rounds: int = 2

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.new_tokens, batch_size=self.batch)


FULL = Size()


def asked(size: Size) -> list[Attempt]:
    """Shipped prompts, every other of them to be answered shortly."""
    everyday = sources.load("demo:everyday.train", kind="everyday")[: size.prompts]
    behaviors = [_behavior(place, one.prompt) for place, one in enumerate(everyday)]
    return [*direct.attack(behaviors, None, direct.Settings())]


def _behavior(place: int, prompt: str) -> Behavior:
    ending = " Answer in five words." if place % 2 else ""
    return Behavior(prompt=prompt + ending, kind="everyday")


def ours(target: Target, size: Size, tokens: list[int]) -> None:
    """As an evaluation asks."""
    batches = target.answers(asked(size), frozenset(), size.decoding)
    tokens.append(sum(answer.tokens for batch in batches for answer in batch))


@torch.inference_mode()
def plain(target: Target, size: Size, tokens: list[int]) -> None:
    """In the order given, padded on the left, until the last answer of a batch has ended."""
    attempts, total = asked(size), 0
    stop = sorted(generate._stop_ids(target))
    for start in range(0, len(attempts), size.batch):
        prompts = [generate.prompt(target, one) for one in attempts[start : start + size.batch]]
        ids, mask = decoding.left_padded(prompts, chat.pad_id(target.tokenizer), "cpu")
        found = target.model.generate(
            input_ids=ids.to(target.model.device),
            attention_mask=mask.to(target.model.device),
            max_new_tokens=size.new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=chat.pad_id(target.tokenizer),
        )
        total += sum(map(partial(_length, stop=stop), found[:, ids.shape[1] :].tolist()))
    tokens.append(total)


def _length(answer: list[int], stop: list[int]) -> int:
    """Tokens before the first that ends an answer."""
    return next((i for i, token in enumerate(answer) if token in stop), len(answer))


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """Tokens a second, ours / theirs; in about two minutes of two cores."""
    target = generate.target(Model(name=size.model, dtype="float32"))
    counted: dict[str, list[int]] = {"ours": [], "plain": []}
    cases = {name: partial(way, target, size, counted[name]) for name, way in WAYS.items()}
    rate = {
        name: [n / s for n, s in zip(counted[name][1:], seconds, strict=True)]
        for name, seconds in times(cases, size.rounds).items()
    }
    name = "tokens a second, demur / model.generate, every other answer of five words"
    return [figure(name, rate["ours"], rate["plain"], 1.5, "higher")]


WAYS = {"ours": ours, "plain": plain}
