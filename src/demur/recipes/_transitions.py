"""A refusal's first token, learnt all along an unsafe answer: the transition rows of `derta`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from demur import supervision
from demur.chat import Turn
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.recipes._prefixes import Spaced
from demur.supervision import IGNORE, Row
from demur.transitions import Transition

PAPER = "sorry"


class Transitions(Spaced):
    """Which word is taught, and where."""

    transition: str = Field("Sorry", description="what a refusal opens with; must be one token")
    transitions_kept: float = Field(
        0.1,
        gt=0,
        le=1,
        description="chance of each answer position to be taught the transition, beside one "
        "position drawn for each row",
    )
    end_slot: bool = Field(False, description="teach the transition at the turn end as well")

    @field_validator("transition", mode="before")
    @classmethod
    def _word(cls, word: Any) -> Any:
        if isinstance(word, bool):
            raise UserError(
                f"train.transition={word}: YAML reads No, Off, Yes and On as true or false; write "
                'transition: "No" in a file, \'train.transition="No"\' on a command line'
            )
        if isinstance(word, str) and (not word or word != word.strip()):
            raise UserError(
                f"train.transition={word!r}: write a word without spaces around it, e.g. Sorry; "
                "the space after other text is put there by `spaced`"
            )
        return word


def turned(
    unsafe: Turn,
    encode: Encoder,
    settings: Transitions,
    draws: Draws,
    special: frozenset[int] | None = None,
    everywhere: bool = False,
) -> Row:
    """A `transition` row. With ``special`` given, unsafe tokens but for these are avoided too:
    where a transition is learnt, or ``everywhere``.
    """
    word = _resolved(encode, settings)
    after = [word.spaced if encode.needs_space(t) else word.bare for t in unsafe.answer]
    taught = [word.opening, *after] if settings.spaced else [word.bare] * (len(after) + 1)
    *targets, at_end = taught
    *keep, keep_end = [draws.random() < settings.transitions_kept for _ in taught]
    keep[draws.randrange(len(keep))] = True  # a short answer keeps one, so no row is empty
    end = at_end if settings.end_slot and keep_end else IGNORE
    away = [True] * len(keep) if everywhere else keep
    return supervision.transition_row(unsafe, targets, keep, special, end, away=away)


def _resolved(encode: Encoder, settings: Transitions) -> Transition:
    try:
        return encode.transition(settings.transition, settings.spaced)
    except UserError as error:
        if settings.transition != PAPER:
            raise
        raise UserError(
            f"{error}; `preset: paper` sets it: write a word that fits beside the preset, "
            "e.g. `transition: Sorry`"
        ) from None
