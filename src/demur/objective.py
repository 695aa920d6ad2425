"""What a recipe asks of the two targets of a row: the one formula both papers fit into.

    loss = 1/N_learn · Σ w · CE(labels)  +  λ · 1/N_avoid · Σ avoid_term

w is 1, and the transition weight in DeRTa's transition rows. Each term is divided by its own
count over the whole accumulated, all-process batch, so that λ means the same whatever the mix
of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from demur.errors import UserError
from demur.settings import Settings, Uses, refuse_idle

Term = Literal["emd", "emd-bound", "unlikelihood", "nlcl", "gradient-ascent", "npo"]


class Weighted(Settings):
    """The weight of the avoid term."""

    lambda_: float | Literal["auto"] = Field(
        1.0,
        alias="lambda",
        description="weight of the avoid term; `auto`: the ratio of both gradient norms at step 0",
    )

    @field_validator("lambda_")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value < 0:
            raise UserError(
                f"train.lambda={value:g}: the avoid term needs a weight of 0 or more; "
                "a negative one would teach the unsafe answers"
            )
        return value


class Braked(Weighted):
    """An avoid term of a baseline, with TA-SFT's brakes to be tried."""

    gate: float | None = Field(
        None, ge=0, lt=1, description="count a position only while P(y) is above; null: always"
    )
    margin: float | None = Field(
        None, gt=0, le=2, description="count a position only while its EMD is below; null: always"
    )


_COMPARED = ("emd", "emd-bound")  # what the embedding is for, besides a margin
USES: Uses = {
    "gate": ("any term but npo", lambda s: s.term != "npo"),
    "margin": ("any term but npo", lambda s: s.term != "npo"),
    "beta": ("term: npo", lambda s: s.term == "npo"),
    "bound_scale": ("term: emd-bound", lambda s: s.term == "emd-bound"),
    "embedding": ("emd, emd-bound or a margin", lambda s: s.term in _COMPARED or s.margin),
    "centre": ("emd, emd-bound or a margin", lambda s: s.term in _COMPARED or s.margin),
}


class Avoidance(Weighted):
    """How the model is moved away from the tokens of ``avoid`` (TA-SFT, arXiv 2412.06843)."""

    term: Term = Field("emd", description="the avoid term; `nlcl` is `unlikelihood`")
    gate: float | None = Field(
        0.01, ge=0, lt=1, description="count a position only while P(y) is above; null: always"
    )
    margin: float | None = Field(
        0.9, gt=0, le=2, description="count a position only while its EMD is below; null: always"
    )
    bound_scale: Literal["tight", "paper"] = Field(
        "tight", description="`emd-bound`: 1/2, or the paper's 1/(2|V|²)"
    )
    embedding: Literal["output", "input"] = Field(
        "output", description="whose rows say how near two tokens are"
    )
    centre: bool = Field(False, description="subtract the mean row first")
    beta: float = Field(0.1, gt=0, description="`npo`: inverse temperature")

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        refuse_idle(self, USES)
        return self


class Objective(Avoidance):
    """Both terms: what is learnt has a weight of its own in DeRTa's transition rows."""

    transition_weight: float = Field(
        1.0, ge=0, description="weight of the labels of transition rows"
    )
    transition_mean: Literal["together", "apart"] = Field(
        "together", description="one token mean with all other labels, or a mean of their own"
    )


def of(settings: Settings, **fixed: Any) -> Objective:
    """The objective that a recipe's settings speak of; ``fixed`` is what it leaves no choice in."""
    shared = settings.model_dump(include=set(Objective.model_fields)) | fixed
    brakes = {"gate": None, "margin": None} if shared.get("term") == "npo" else {}
    return Objective.model_construct(**shared | brakes)  # what is given has been validated


def weights(terms: Sequence[float], objective: Objective) -> list[float]:
    """What each sum of a step is multiplied by, λ aside, from how many terms it has in all."""
    learn, moved, avoided = terms
    together = objective.transition_mean == "together"
    sizes = (learn + moved, learn + moved, avoided) if together else terms
    factors = (1.0, objective.transition_weight, 1.0)
    return [factor / max(n, 1.0) for factor, n in zip(factors, sizes, strict=True)]
