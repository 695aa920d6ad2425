"""From the beginning of an unsafe answer into the safe one: the rows of `derta` and `recaug`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from demur import chat, supervision
from demur.draws import Draws
from demur.encoder import Encoder
from demur.records import Example
from demur.settings import Settings
from demur.supervision import Row

# DeRTa's published scripts: the first row and each third one from there without a prefix (and a
# space too many there), the others 1 to W - 2 words long, drawn once for all epochs. Their steps
# are 128 rows, over 8 processes; here on one.
_ROWS = {
    "prefix_empty": 0.0,
    "prefix_empty_every": 3,
    "prefix_redrawn": False,
    "prefix_unit": "words",
    "prefix_spare": 2,
    "doubled_space": True,
    "spaced": False,
}
_STEP = {"batch_size": 8, "accumulation": 16}
REFERENCE: dict[str, Any] = (
    _ROWS
    | _STEP
    | {
        "epochs": 2.0,
        "max_length": 512,
        "learning_rate": 1e-4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.0,
        "lora": {"r": 96, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear"},
    }
)
REFERENCE_FULL: dict[str, Any] = (
    _ROWS
    | _STEP
    | {
        "epochs": 2.0,
        "max_length": 1024,
        "learning_rate": 2e-5,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 2e-5,
        "lora": None,
    }
)


class Spaced(Settings):
    """How a refusal goes on from other text."""

    spaced: bool = Field(True, description="put a space before a refusal where words need it")


class Prefixes(Spaced):
    """Where the prefix ends, and how the safe answer goes on from there."""

    prefix_empty: float | None = Field(
        1 / 3, ge=0, le=1, description="share of empty prefixes; null: a length like any other"
    )
    prefix_empty_every: int | None = Field(
        None,
        gt=0,
        description="besides, no prefix for the first pair and every so many on from there, by "
        "their order in the data; null: none is counted out",
    )
    prefix_redrawn: bool = Field(True, description="draw prefixes anew in each epoch")
    prefix_max: int | None = Field(None, gt=0, description="longest prefix; null: no limit")
    prefix_unit: Literal["tokens", "words"] = Field(
        "tokens", description="what a prefix is counted in; words are cut at single spaces"
    )
    prefix_spare: int = Field(0, ge=0, description="units at the answer's end no prefix reaches")
    doubled_space: bool = Field(
        False,
        description="one more space where the prefix is empty, as DeRTa's scripts put it; none "
        "where the template trims answers",
    )


def prefixed(
    example: Example, safe: str, encode: Encoder, settings: Prefixes, draws: Draws
) -> Iterator[Row]:
    """A `prefix` row, none where the unsafe answer is too short for the shortest prefix.

    A prefix that leaves no room for the safe answer is shortened, and counted in ``encode.cut``.
    """
    longest = _longest(example, encode, settings)
    if longest < 1 and example.rejected:
        return
    any_length = example.rejected and not example.ready
    k = drawn = _length(longest, settings, draws) if any_length else longest
    row = _row(example, safe, k, encode, settings)
    while len(row) > encode.max_length and k:
        k = min(k - 1, k * encode.max_length // len(row))
        row = _row(example, safe, k, encode, settings)
    encode.cut["prefixes"] += k < drawn
    yield row


def _longest(example: Example, encode: Encoder, settings: Prefixes) -> int:
    if not example.rejected:
        return 0
    words = settings.prefix_unit == "words"
    all_of_it = _words(example) if words else encode(example.messages, example.rejected).answer
    if example.ready:
        return len(all_of_it)
    longest = len(all_of_it) - settings.prefix_spare
    return min(longest, settings.prefix_max or longest)


def _words(example: Example) -> list[str]:
    return (example.rejected or "").split(" ")


def _length(longest: int, settings: Prefixes, draws: Draws) -> int:
    """P(k = 0) is ``prefix_empty``, otherwise k is uniform from 1 to the longest prefix."""
    if settings.prefix_empty_every and draws.place % settings.prefix_empty_every == 0:
        return 0
    random = draws if settings.prefix_redrawn else draws.lasting
    if settings.prefix_empty is None:
        return random.randint(0, longest)
    return 0 if random.random() < settings.prefix_empty else random.randint(1, longest)


def _row(example: Example, safe: str, k: int, encode: Encoder, settings: Prefixes) -> Row:
    if not k and settings.doubled_space:
        return _joined(example, safe, [], encode)
    if not k:
        whole = encode(example.messages, safe, unfinished=example.unfinished)
        return supervision.learn_row(whole, "prefix")
    if settings.prefix_unit == "words":
        return _joined(example, safe, _words(example)[:k], encode)
    unsafe = encode(example.messages, example.rejected or "")
    whole = encode(example.messages, safe, unfinished=example.unfinished)
    glued = settings.spaced and encode.needs_space(unsafe.answer[k - 1])
    told = encode.continued(safe) if glued else whole.answer
    return supervision.prefix_row(unsafe, k, told + whole.end)


def _joined(example: Example, safe: str, words: Sequence[str], encode: Encoder) -> Row:
    """Words and the safe answer as one text, of which the tokens after the words are learnt."""
    room = None if words else encode.max_length
    whole = chat.turn(encode.tokenizer, example.messages, safe, room, " ".join(words))
    return supervision.learn_row(replace(whole, end=()) if example.unfinished else whole, "prefix")
