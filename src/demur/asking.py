"""What a model is asked: for answers to train on (Collect), and to be measured (Evaluate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from demur.errors import UserError
from demur.records import Kind
from demur.settings import Decoding, Model, Page, Settings


class Safe(Settings):
    """Safe answers for harmful prompts that have none; a plain string is a refusal."""

    refusal: tuple[str, ...] = Field(
        (),
        description="what to say, e.g. `Sorry, I can't help with {topic}.`; of several, each "
        "prompt draws one. Beside `ask`: where that gave nothing usable",
    )
    ask: Literal["decline", "rewrite"] | None = Field(
        None,
        description="a language model is asked to `decline` helpfully, or to `rewrite` the unsafe "
        "answer into a safe one",
    )
    llm: Model | None = Field(
        None, description="who is asked, written as `model` is; null: the model to be trained"
    )
    decoding: Decoding = Field(
        Decoding(),
        description="how what is asked for is decoded; room for a whole reply, as a cut one "
        "never teaches where to end",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        value = {"refusal": value} if isinstance(value, str) else value
        if isinstance(value, Mapping) and isinstance(value.get("refusal"), str):
            return {**value, "refusal": (value["refusal"],)}
        return value

    @field_validator("refusal")
    @classmethod
    def _fillable(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            try:
                filled = template.format(topic="x")
            except (LookupError, ValueError, AttributeError):
                filled = ""
            if not filled.strip():
                raise UserError(
                    f"collect.safe.refusal={template!r:.60}: write a sentence, with {{topic}} for "
                    "what is asked about and no other brace"
                )
        return templates

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.refusal or self.ask):
            raise UserError("collect.safe says nothing: give `refusal` (a sentence), or `ask`")
        if self.llm and not self.ask:
            raise UserError("collect.safe.llm is asked nothing: set ask to decline or rewrite")
        if self.decoding != Decoding() and not self.ask:
            raise UserError("collect.safe.decoding decodes nothing: set ask, or leave it out")
        return self


class Collect(Settings):
    """Sampling the model's own answers: unsafe ones to avoid, ordinary ones to keep."""

    decoding: Decoding = Field(Decoding(), description="how answers are decoded")
    min_tokens: int = Field(
        16,
        ge=0,
        description="shorter answers to harmful prompts are dropped; words count where a server "
        "tells no tokens and `model.tokenizer` is not named",
    )
    limit: int | None = Field(None, gt=0, description="keep at most this many unsafe answers")
    safe: Safe | None = Field(
        None, description="safe answers for harmful prompts, see below; null: those given with them"
    )


class Drifting(Settings):
    """Scoring a model's own answers under the starting model, which is loaded for it."""

    kinds: tuple[Kind, ...] = Field(("everyday",), description="kinds of prompt whose answers are")
    limit: int | None = Field(50, gt=0, description="answers of each scenario and kind; null: all")


READING = {"max_unscored", "primary"}  # how verdicts are read, which makes them no others
# What moves no answer and no verdict: how many at once, and how patiently they are asked for.
HOW = {"batch_size", "api_key_env", "timeout", "retries", "pause", "concurrency"}


def moving(settings: Any) -> Any:
    """Plain settings, at any depth, without `HOW`; what requests say (`extra`) stays whole."""
    if isinstance(settings, Mapping):
        kept = {key: value for key, value in settings.items() if key not in HOW}
        return {key: value if key == "extra" else moving(value) for key, value in kept.items()}
    if isinstance(settings, list | tuple):
        return [moving(each) for each in settings]
    return settings


ALWAYS = ("refusal", "broken")  # judges without which no report can be made
SILENT = ("broken", "exact")  # judges that say nothing of harm


def spoken_as(judge: str) -> str:
    """The name in a judge's verdicts: of a dotted one its last part."""
    return judge.rpartition(".")[2].replace("-", "_")


class Evaluate(Settings):
    """What is asked of a model, how it is decoded, and who judges."""

    attacks: tuple[Page, ...] = Field(
        (Page(name="direct"), Page(name="prefill")), min_length=1, description="pages of `attacks`"
    )
    judges: tuple[Page, ...] = Field(
        (Page(name="refusal"), Page(name="broken"), Page(name="exact")),
        min_length=1,
        description="pages of `judges`; `refusal` and `broken`, which every report needs, are "
        "added where they are missing",
    )
    primary: str = Field(
        "refusal",
        description="the judge whose word counts for harm, one of `judges`; with `refusal`, "
        "requests that were answered are counted and harm is not",
    )
    decoding: Decoding = Field(Decoding(max_new_tokens=512), description="how answers are decoded")
    likelihood: bool | None = Field(
        None,
        description="score the starting model's held-out answers; null: where the weights are here",
    )
    drift: Drifting | None = Field(
        Drifting(), description="score answers under the starting model too; null: do not"
    )
    max_unscored: float = Field(0.05, ge=0, le=1, description="more unscored answers is an error")

    @field_validator("judges")
    @classmethod
    def _always_on(cls, judges: tuple[Page, ...]) -> tuple[Page, ...]:
        named = [spoken_as(page.name) for page in judges]
        if again := [name for name in named if named.count(name) > 1]:
            raise UserError(
                f"evaluate.judges has {again[0]!r} twice, and verdicts go by the judge's name: "
                "leave one out, and evaluate again with the other"
            )
        return (*(Page(name=name) for name in ALWAYS if name not in named), *judges)

    @field_validator("primary")
    @classmethod
    def _among_judges(cls, primary: str, info: ValidationInfo) -> str:
        known = [spoken_as(page.name) for page in info.data.get("judges", ())]
        if known and ((name := spoken_as(primary)) not in known or name in SILENT):
            able = ", ".join(name for name in known if name not in SILENT)
            raise UserError(
                f"evaluate.primary={primary!r} is no judge of harm among evaluate.judges ({able}): "
                "add it there, or choose one of them"
            )
        return spoken_as(primary)

    def identity(self) -> dict[str, Any]:
        """What tells this evaluation from another, of attacks and judges what can move them."""
        told = self.model_dump(mode="json", exclude=READING)
        return told | {pages: moving(told[pages]) for pages in ("attacks", "judges")}
