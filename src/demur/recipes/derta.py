"""DeRTa: refuse at any position of an answer.

    L = -E log P(safe | prompt, unsafe_<k) - E Σ_t log P(transition | prompt, unsafe_<t)

(arXiv 2407.09121.) A *prefix* row goes from the first k tokens of a harmful answer into the safe
one; a *transition* row (RTO, reinforced transition optimisation) learns the refusal's first
token at positions all along the harmful answer. With ``lambda`` above 0 unsafe tokens are avoided,
TA-SFT's part: at the same positions, or in rows of their own. Neither paper has that.

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

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from demur import supervision
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.objective import Avoidance, Objective, of
from demur.recipes._aligned import align
from demur.recipes._prefixes import REFERENCE, REFERENCE_FULL, Prefixes, Spaced, prefixed
from demur.recipes._rows import KINDS, avoided, check, learned, need_harmful, need_safe
from demur.recipes._transitions import PAPER, Transitions, turned
from demur.records import Example
from demur.settings import keys
from demur.supervision import Row

_REFERENCE = {"align_openings": False, "end_slot": True}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "prefix_empty": None,
        "transitions_kept": 1.0,
        "transition_mean": "apart",
        "transition": PAPER,
        "spaced": False,
        "align_openings": False,
    },
    "reference": REFERENCE | _REFERENCE | {"transitions_kept": 1.0},
    "reference-full": REFERENCE_FULL | _REFERENCE | {"transitions_kept": 0.05},
}


# What a setting is idle without: one of these has to be switched on.
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(keys(Prefixes) - keys(Spaced), ("prefix",)),
    **dict.fromkeys(
        ("transitions_kept", "end_slot", "transition_weight", "transition_mean"), ("transitions",)
    ),
    **dict.fromkeys({*keys(Avoidance), "avoid"} - {"lambda"}, ("lambda",)),
    "align_openings": ("prefix", "safe"),
}


class Settings(Prefixes, Transitions, Objective):
    """Where a prefix ends, and where a transition is taught."""

    lambda_: float | Literal["auto"] = Field(
        0.0, alias="lambda", description="above 0: also avoid unsafe tokens, where `avoid` says"
    )
    avoid: Literal["kept", "all", "rows"] = Field(
        "kept",
        description="the unsafe tokens avoided: where a transition is learnt (`kept`), all along "
        "transition rows (`all`), or in `avoid` rows, which need no safe answer (`rows`)",
    )
    safe: bool = Field(
        False, description="learn the safe answers by themselves as well, in `safe` rows"
    )
    prefix: bool = Field(True, description="make prefix rows")
    transitions: bool = Field(True, description="make transition rows")
    align_openings: bool = Field(True, description="make safe answers open with the transition")

    @property
    def aside(self) -> bool:
        """Whether unsafe tokens are avoided in rows of their own."""
        return bool(self.lambda_) and self.avoid == "rows"

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        """A training without DeRTa's rows has another name; nor is a setting to be idle."""
        if not (self.prefix or self.transitions):
            raise UserError(
                "train.prefix=false and train.transitions=false leave nothing of derta: switch "
                "one on, or take recipe sft, stl or ta_sft"
            )
        given = self.model_dump(by_alias=True, exclude_unset=True)
        on = self.model_dump(by_alias=True)
        for name in given:
            if name in NEEDS and not any(on[switch] for switch in NEEDS[name]):
                raise UserError(_idle(name))
        if self.lambda_ and not self.transitions and not self.aside:
            raise UserError(
                f"train.lambda={self.lambda_} with train.transitions=false avoids nothing: set "
                "train.avoid=rows, or train.lambda=0"
            )
        if self.lambda_ and self.term == "npo" and self.avoid == "kept":
            raise UserError(
                "train.term=npo compares whole answers: set train.avoid=all or train.avoid=rows"
            )
        return self


def _idle(name: str) -> str:
    switch = NEEDS[name][0]
    on = "train.lambda above 0" if switch == "lambda" else f"train.{switch}=true"
    return f"train.{name} does nothing without {on}: set that too, or leave {name} out"


def rows(example: Example, encode: Encoder, settings: Settings, random: Draws) -> Iterator[Row]:
    """`learn` for harmless answers, `prefix` and `transition` rows for pairs to harmful prompts.

    A harmful prompt to which the model gave no unsafe answer becomes a prefix row without prefix;
    an example that is a row already becomes that row.
    Raises UserError for an unsafe answer without a safe one, which only `avoid` rows are made of,
    or the same text as both.
    """
    if not example.ready:
        yield from learned(example, encode)
    begun = example.ready and example.chosen is not None  # what is rejected is a beginning alone
    if settings.aside and not begun:
        yield from avoided(example, encode)
    if example.kind != "harmful" and not example.ready:
        return
    if example.chosen is not None or not (example.ready or settings.aside):
        yield from _declined(example, encode, settings, random)
    paired = example.chosen is not None or example.ready
    if settings.transitions and example.rejected and paired and not begun:
        unsafe = encode(example.messages, example.rejected)
        special = encode.special if settings.lambda_ and not settings.aside else None
        yield turned(unsafe, encode, settings, random, special, settings.avoid == "all")


def _declined(
    example: Example, encode: Encoder, settings: Settings, random: Draws
) -> Iterator[Row]:
    """The `safe` row and the `prefix` row of a safe answer; not both of one without a prefix."""
    check(example)
    safe = align(example.chosen or "", settings.transition, settings.align_openings)
    if settings.safe and not example.ready:
        turn = encode(example.messages, safe, unfinished=example.unfinished)
        yield supervision.learn_row(turn, KINDS["harmful"])
    if settings.prefix and (example.rejected or not settings.safe):
        yield from prefixed(example, safe, encode, settings, random)


def check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raises UserError without a row that goes over to a refusal: it would be another recipe."""
    need_harmful(rows, "recipe 'derta'")
    if settings.safe:
        need_safe(rows, "train.safe=true")


def objective(settings: Settings) -> Objective:
    return of(settings)
