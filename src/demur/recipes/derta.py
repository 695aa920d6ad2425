"""DeRTa: refuse at any position of an answer.

    L = -E log P(safe | prompt, unsafe_<k) - E Σ_t log P(transition | prompt, unsafe_<t)

(arXiv 2407.09121.) A *prefix* row goes from the first k tokens of a harmful answer into the safe
one; a *transition* row (RTO, reinforced transition optimisation) learns the refusal's first
token at positions all along the harmful answer. With ``lambda`` above 0 a transition row is told
to move away from the unsafe token at the same positions, TA-SFT's part: neither paper has that.

Where paper and public code disagree each choice is a setting; the presets are what they did.
demur's own: a few transition positions a row, redrawn each epoch, since a target on every one
of them teaches loops ("SorrySorry").

The ``reference`` presets are the published scripts, for LoRA and (``reference-full``) for every
weight. With ``model.chat_template: derta`` and Llama 3's base tokenizer their labels are the
scripts' own, but for what is drawn: which prefixes are empty (each third row there) and which
5 % of positions are kept there (of the padded row, so that a row may keep none; here of the
answer, and one at least). A row longer than ``max_length`` loses prefix here, its targets there.
There 60,000 ordinary answers come with 3,000 transition and 3,000 prefix rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from pydantic import Field

from demur import chat
from demur.objective import Objective, of
from demur.recipes._prefixes import REFERENCE, REFERENCE_FULL, Prefixes, prefixed
from demur.recipes._rows import check, learned
from demur.records import Example

_REFERENCE = {"align_openings": False, "end_slot": True}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "prefix_empty": None,
        "transitions_kept": 1.0,
        "transition_mean": "apart",
        "transition": "sorry",
        "spaced": False,
        "align_openings": False,
    },
    "reference": REFERENCE | _REFERENCE | {"transitions_kept": 1.0},
    "reference-full": REFERENCE_FULL | _REFERENCE | {"transitions_kept": 0.05},
}


class Settings(Prefixes, Objective):
    """Where a prefix ends, and where a transition is taught."""

    lambda_: float | Literal["auto"] = Field(
        0.0, alias="lambda", description="above 0: also avoid the unsafe tokens of transition rows"
    )
    prefix: bool = Field(True, description="make prefix rows")
    transition: str = Field("Sorry", description="what a refusal opens with; must be one token")
    transitions: bool = Field(True, description="make transition rows")
    transitions_kept: float = Field(
        0.1, gt=0, le=1, description="share of answer positions with a transition target"
    )
    end_slot: bool = Field(False, description="teach the transition at the turn end as well")
    align_openings: bool = Field(True, description="make safe answers open with the transition")


def rows(
    example: Example, encode: chat.Encoder, settings: Settings, random: Random
) -> Iterator[chat.Row]:
    """`learn` for ordinary answers, `prefix` and `transition` rows for pairs.

    A harmful prompt to which the model gave no unsafe answer becomes a prefix row without prefix;
    an example that is a row already becomes that row.
    Raises UserError for an unsafe answer without a safe one, or the same text as both.
    """
    yield from learned(example, encode)
    if example.kind != "harmful" and example.rejected is None:
        return
    if not (example.ready and example.chosen is None):
        yield from _prefixes(example, encode, settings, random)
    if settings.transitions and example.rejected and not (example.ready and example.chosen):
        yield _transitions(encode(example.messages, example.rejected), encode, settings, random)


def _prefixes(
    example: Example, encode: chat.Encoder, settings: Settings, random: Random
) -> Iterator[chat.Row]:
    check(example)
    safe = align(example.chosen or "", settings.transition, settings.align_openings)
    if settings.prefix:
        yield from prefixed(example, safe, encode, settings, random)


def _transitions(
    unsafe: chat.Turn, encode: chat.Encoder, settings: Settings, random: Random
) -> chat.Row:
    word = chat.transition(encode, settings.transition)
    after = [word.spaced if encode.needs_space(t) else word.bare for t in unsafe.answer]
    taught = [word.opening, *after] if settings.spaced else [word.bare] * (len(after) + 1)
    *targets, at_end = taught
    *keep, keep_end = [random.random() < settings.transitions_kept for _ in taught]
    keep[random.randrange(len(keep))] = True  # a short answer keeps one, so no row is empty
    end = at_end if settings.end_slot and keep_end else chat.IGNORE
    special = encode.special if settings.lambda_ else None
    return chat.transition_row(unsafe, targets, keep, special, end)


def align(answer: str, word: str, wanted: bool = True) -> str:
    """The safe answer, opening with the transition word, so that the word has a continuation.

    >>> align("I'm sorry, but I can't help with that.", "Sorry")
    "Sorry, but I can't help with that."
    """
    if not wanted or answer.startswith(word):
        return answer
    rest = re.sub(
        r"^(I['’]m|I am|We['’]re|We are)?\s*(so |very )?sorry[,.!]?\s*", "", answer, flags=re.I
    )
    if not rest:
        return f"{word}."
    lower = rest[:1] if re.match(r"I\b", rest) else rest[:1].lower()
    return f"{word}, {lower}{rest[1:]}"


def objective(settings: Settings) -> Objective:
    return of(settings)
