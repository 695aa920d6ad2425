"""Greedy decoding of attempts into completions, and the likelihood of given answers.

Attempts are decoded in streams of similar length, each with a batch that stays full. Streams
depend on the attempts alone, never on where an earlier run stopped, and an incomplete one is
decoded again from its start, so a resumed file equals an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from demur import (
    adapters,
    chat,
    decoding,
    heads,
    identity,
    losses,
    models,
    records,
    sampler,
    supervision,
    tokenizers,
)
from demur.encoder import Encoder
from demur.errors import UserError
from demur.records import Attempt, Message
from demur.sampler import Answer
from demur.settings import Decoding, Model
from demur.supervision import IGNORE, Row

STREAM = 8  # batches that follow each other without a gap, and may have to be decoded again


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A model under test: weights, tokenizer, and the fingerprint its completions carry."""

    model: Any
    tokenizer: Any
    name: str

    def check(self, attempts: Sequence[Attempt]) -> None:
        """Raises UserError for an attempt that fills the model's whole context."""
        for attempt in attempts:
            prompt(self, attempt)

    def answers(
        self, attempts: Sequence[Attempt], have: Set[str], decoding: Decoding
    ) -> Iterator[Sequence[Answer]]:
        """Greedy answers as they end, stream by stream; of one that lacks some from its start."""
        for stream in _streams(self, attempts, decoding.batch_size * STREAM):
            if missing := {attempt.id for attempt, _ in stream} - have:
                yield from _answers(self, stream, missing, decoding)


def target(settings: Model) -> Target:
    """Load a model to ask. Raises UserError if its tokenizer or weights cannot be used."""
    tokenizer = tokenizers.load(settings)
    model = adapters.merged(models.load(settings))
    return Target(model, tokenizer, identity.fingerprint_of(settings))


Asked = tuple[Attempt, list[int]]


def _streams(target: Target, attempts: Sequence[Attempt], size: int) -> Iterator[tuple[Asked, ...]]:
    """Attempts with their ids, by scenario and then by length: a new scenario moves no stream."""
    scenarios: dict[tuple[str, str], list[Asked]] = {}
    for attempt in attempts:
        same = scenarios.setdefault((attempt.attack, attempt.variant), [])
        same.append((attempt, prompt(target, attempt)))
    for same in scenarios.values():
        yield from records.batched(sorted(same, key=lambda a: (len(a[1]), a[0].id)), size)


def prompt(target: Target, attempt: Attempt) -> list[int]:
    """The ids the model continues. Raises UserError if they fill its whole context."""
    if attempt.raw:
        ids = chat.raw_ids(target.tokenizer, attempt.messages[-1]["content"])
    else:
        ids = chat.prompt_ids(target.tokenizer, attempt.messages, attempt.prefill)
    if len(ids) >= (context := context_of(target)):
        raise UserError(
            f"an attempt of {attempt.attack!r} has {len(ids)} tokens and the model's context "
            f"{context}: shorten {attempt.messages[-1]['content'][:40]!r}"
        )
    return ids


def context_of(target: Target) -> int:
    """The most tokens the model takes, prompt and answer together."""
    settings = adapters.bare(target.model).config.get_text_config()
    return int(getattr(settings, "max_position_embeddings", None) or 1 << 30)


def _answers(
    target: Target, stream: Sequence[Asked], missing: Set[str], settings: Decoding
) -> Iterator[list[Answer]]:
    """The missing answers of a stream, as they end; none is decoded after the last of them."""
    limits = _limits(target, [ids for _, ids in stream], settings.max_new_tokens)
    for ended in greedy(target, [ids for _, ids in stream], limits, settings.batch_size):
        said = [_said(target, *stream[place], ids, limits[place]) for place, ids in ended]
        if some := [answer for answer in said if answer.attempt.id in missing]:
            yield some
            missing = missing - {answer.attempt.id for answer in some}
        if not missing:
            return


def _said(
    target: Target, attempt: Attempt, prompt: list[int], ids: list[int], limit: int
) -> Answer:
    goes_on = bool(attempt.prefill) or attempt.raw
    decode = partial(text, target.tokenizer, after=prompt[-1:] if goes_on else [])
    finish: Literal["stop", "length"] = "length" if len(ids) == limit else "stop"
    return Answer(attempt, decode(ids), len(ids), finish, sampler.reach(ids, decode))


def text(tokenizer: Any, ids: list[int], after: list[int]) -> str:
    """The text of ``ids``; what goes on ``after`` a token keeps the space between the two.

    SentencePiece drops the space before the first word of whatever it is given.
    """
    before, whole = (tokenizer.decode(i, skip_special_tokens=True) for i in (after, after + ids))
    alone = tokenizer.decode(ids, skip_special_tokens=True)
    return str(whole[len(before) :] if before and whole.startswith(before) else alone)


def greedy(
    target: Target, prompts: Sequence[list[int]], limits: Sequence[int], batch_size: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """As `decoding.greedy`, the answers without the turn end."""
    stop, pad = _stop_ids(target), chat.pad_id(target.tokenizer)
    return decoding.greedy(target.model, prompts, limits, stop=stop, pad=pad, size=batch_size)


def _limits(target: Target, prompts: Sequence[list[int]], max_new_tokens: int) -> list[int]:
    """How many tokens each answer may have: a setting, and what is left of the context."""
    return [min(max_new_tokens, context_of(target) - len(prompt)) for prompt in prompts]


def _stop_ids(target: Target) -> frozenset[int]:
    """The template's turn end, and whatever else the model's own generation settings stop at."""
    own = getattr(target.model, "generation_config", None)
    ends = getattr(own, "eos_token_id", None) or []
    return chat.stop_ids(target.tokenizer) | frozenset([ends] if isinstance(ends, int) else ends)


def row(target: Target, prompt: str, answer: str) -> Row:
    """What `likelihood` reads: the answer without its end, as a collected one may be cut off."""
    asked = Message(role="user", content=prompt)
    encode = Encoder(target.tokenizer, context_of(target))
    return supervision.learn_row(encode((asked,), answer, unfinished=True))


@torch.inference_mode()
def hidden(
    target: Target, rows: Iterable[Row], batch_size: int = 8
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The states [n, d] from which each row's n labels are predicted, and these, in order."""
    decoder, pad = adapters.bare(target.model).get_decoder(), chat.pad_id(target.tokenizer)
    for some in records.batched(rows, batch_size):
        batch = {k: v.to(target.model.device) for k, v in supervision.collate(some, pad).items()}
        states = decoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        for state, labels in zip(states[:, :-1], batch["labels"][:, 1:], strict=True):
            told = labels != IGNORE
            yield state[told], labels[told]


@torch.inference_mode()
def likelihood(
    target: Target, rows: Iterable[Row], batch_size: int = 8
) -> Iterator[tuple[float, int]]:
    """Summed negative log-likelihood (nats) and count of each row's labels, in order."""
    head = heads.head(target.model)
    for states, labels in hidden(target, rows, batch_size):
        # A row at a time: positions × vocabulary is large.
        yield float(losses.learn(head(states), labels).sum()), len(labels)
