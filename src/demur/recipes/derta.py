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
scripts' own: every third pair, from the first on, has an empty prefix, the others one that is
drawn once for all epochs. Two things differ. Which 5 % of positions are kept there is drawn over
the padded row, so that a row may keep none; here over the answer, and one at least. A row longer
than ``max_length`` loses prefix here, its targets there. There 60,000 ordinary answers come with
3,000 transition and 3,000 prefix rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from demur import chat, supervision
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.objective import Avoidance, Objective, of
from demur.recipes._aligned import align
from demur.recipes._prefixes import REFERENCE, REFERENCE_FULL, Prefixes, prefixed
from demur.recipes._rows import check, learned
from demur.records import Example
from demur.supervision import IGNORE, Row
from demur.transitions import Transition

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

    @field_validator("transition")
    @classmethod
    def _bare_word(cls, word: str) -> str:
        if not word or word != word.strip():
            raise UserError(
                f"train.transition={word!r}: write a word without spaces around it, e.g. Sorry; "
                "the space after other text is put there by `spaced`"
            )
        return word

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        """A training of ordinary answers alone has another name; nor is a setting to be idle.

        An explicit ``lambda: 0`` may stand beside them: a variant switches them off by it.
        """
        if not (self.prefix or self.transitions):
            raise UserError(
                "train.prefix=false and train.transitions=false leave ordinary answers alone: "
                "switch one on, or take recipe sft"
            )
        idle = [name for name in Avoidance.model_fields if name in self.model_fields_set]
        if idle and "lambda_" not in idle:
            raise UserError(
                f"train.{idle[0]} does nothing without train.lambda above 0: set that too, or "
                f"leave {idle[0]} out"
            )
        return self


def rows(example: Example, encode: Encoder, settings: Settings, random: Draws) -> Iterator[Row]:
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
    example: Example, encode: Encoder, settings: Settings, random: Draws
) -> Iterator[Row]:
    check(example)
    safe = align(example.chosen or "", settings.transition, settings.align_openings)
    if settings.prefix:
        yield from prefixed(example, safe, encode, settings, random)


def _transitions(unsafe: chat.Turn, encode: Encoder, settings: Settings, random: Draws) -> Row:
    word = _word(encode, settings)
    after = [word.spaced if encode.needs_space(t) else word.bare for t in unsafe.answer]
    taught = [word.opening, *after] if settings.spaced else [word.bare] * (len(after) + 1)
    *targets, at_end = taught
    *keep, keep_end = [random.random() < settings.transitions_kept for _ in taught]
    keep[random.randrange(len(keep))] = True  # a short answer keeps one, so no row is empty
    end = at_end if settings.end_slot and keep_end else IGNORE
    special = encode.special if settings.lambda_ else None
    return supervision.transition_row(unsafe, targets, keep, special, end)


def _word(encode: Encoder, settings: Settings) -> Transition:
    try:
        return encode.transition(settings.transition, settings.spaced)
    except UserError as error:
        if settings.transition != PRESETS["paper"]["transition"]:
            raise
        raise UserError(
            f"{error}; `preset: paper` sets it: write a word that fits beside the preset, "
            "e.g. `transition: Sorry`"
        ) from None


def objective(settings: Settings) -> Objective:
    return of(settings)
