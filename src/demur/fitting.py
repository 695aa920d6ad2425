"""How a model is trained: a recipe's own settings, and those of the fit beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from demur import pages
from demur.errors import UserError
from demur.settings import Settings, Uses, explain, keys, page_settings, refuse_idle


class Lora(Settings):
    """A low-rank adapter instead of full fine-tuning."""

    r: int = Field(64, gt=0, description="rank")
    alpha: int = Field(128, gt=0, description="scale, divided by the rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field("all-linear", description="as PEFT names them")


Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


USES: Uses = {
    "warmup_ratio": ("a schedule that warms up", lambda fit: fit.lr_scheduler != "constant"),
}


class Fit(Settings):
    """How the weights move: the same settings for every recipe."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1, description="optimizer steps; -1 counts epochs instead")
    learning_rate: float | None = Field(
        None, gt=0, description="null: 1e-4 for an adapter (`lora`), 2e-5 for every weight"
    )
    lr_scheduler: Scheduler = Field("cosine", description="a transformers scheduler name")
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    batch_size: int = Field(8, gt=0, description="rows per device and forward pass")
    accumulation: int = Field(1, gt=0, description="forward passes per optimizer step")
    max_length: int = Field(1024, gt=1, description="tokens a row may have; longer ones are cut")
    mix: dict[str, NonNegativeInt] = Field(
        {},
        description="row kinds and their parts, e.g. {learn: 3, avoid: 1}: 3 and 1 of every 4 "
        "rows, whatever a batch holds",
    )
    lora: Lora | None = Field(Lora(), description="null trains every weight")
    bf16: bool | None = Field(
        None, description="mixed precision; null: where the GPU or CPU has it"
    )
    packing: bool | None = Field(
        None,
        description="lay the rows of a pass end to end instead of padding them; null: where the "
        "model's attention keeps them apart",
    )
    gradient_checkpointing: bool = False
    save_steps: int = Field(50, gt=0, description="optimizer steps between checkpoints")
    save_total_limit: int | None = Field(2, gt=0, description="checkpoints kept")
    report_to: Literal["none", "tensorboard", "wandb"] = Field(
        "none", description="where curves go besides log.jsonl"
    )

    @property
    def rate(self) -> float:
        """The learning rate: DeRTa's two where none is given."""
        return self.learning_rate or (1e-4 if self.lora else 2e-5)

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        refuse_idle(self, USES)
        return self

    @field_validator("max_steps")
    @classmethod
    def _some(cls, value: int) -> int:
        if value == 0:  # transformers would take it for -1
            raise UserError("train.max_steps=0: give 1 or more, or -1 to count epochs instead")
        return value


class Train(Settings):
    """A recipe's own settings and those of the fit; both are written flat under ``train``."""

    recipe: str
    method: Any
    fit: Fit

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Give each flat key to whoever declares it."""
        if not isinstance(value, Mapping) or isinstance(value.get("fit"), Fit):
            return value
        flat = dict(value)
        recipe = _text("train.recipe", flat.pop("recipe", "ta_sft"))
        page = _page(recipe)
        flat = _over(page, _preset(recipe, page, flat.pop("preset", None)), flat)
        mine, others = _partition(flat, keys(page.Settings), keys(Fit))
        return {"recipe": recipe, "method": page_settings(page, mine, "train"), "fit": others}

    def flat(self) -> dict[str, Any]:
        """Every setting under the name it has below ``train``, as plain values."""
        told: dict[str, dict[str, Any]] = self.model_dump(mode="json", exclude={"recipe"})
        rate = {"learning_rate": self.fit.rate}
        return {"recipe": self.recipe} | told["method"] | told["fit"] | rate

    @field_serializer("method")
    def _plain(self, method: Settings) -> dict[str, Any]:
        return method.model_dump(mode="json", by_alias=True)


def _partition(
    flat: dict[str, Any], mine: set[str], others: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split flat keys between two groups; the leftovers are refused by name."""
    for key in flat:
        if key not in mine | others:
            known = sorted(mine | others | {"recipe", "preset"})
            raise UserError(pages.unknown("setting", str(key), known, "train."))
    return (
        {k: v for k, v in flat.items() if k in mine},
        {k: v for k, v in flat.items() if k not in mine},
    )


def variant(name: str, base: Train, changes: dict[str, Any]) -> Train:
    """A variant keeps the base's fit; its method settings too where the recipe is the same."""
    try:
        return Train.model_validate(_varied(base, changes))
    except ValidationError as error:
        said = explain(error, Train, "train.")
    except UserError as error:
        said = str(error)
    raise UserError(said.replace("train.", f"variants.{name}.")) from None


def _varied(base: Train, changes: dict[str, Any]) -> dict[str, Any]:
    recipe = _text("train.recipe", changes.get("recipe", base.recipe))
    kept = base.fit.model_dump(exclude_unset=True)
    if recipe == base.recipe:
        kept |= base.method.model_dump(exclude_unset=True, by_alias=True)
    page = _page(recipe)
    preset = _preset(recipe, page, changes.get("preset"))
    own = {key: value for key, value in changes.items() if key != "preset"}
    return {"recipe": recipe} | _over(page, kept | preset, own)


def overridden(tree: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings of a training, with those of a command line over them."""
    recipe = _text("train.recipe", own.get("recipe", tree.get("recipe", "ta_sft")))
    return _over(_page(recipe), tree, own)


def _over(page: Any, below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``below``, less what in the latter is idle as ``own`` switches it off."""
    both, needs = {**below, **own}, getattr(page, "NEEDS", {})
    on = {**page.Settings().model_dump(by_alias=True), **both} if needs else {}

    def rests(name: str) -> bool:
        switches = needs.get(name, ())
        return any(s in own for s in switches) and not any(on[s] for s in switches)

    return {name: both[name] for name in both if name in own or not rests(name)}


def _page(recipe: str) -> Any:
    if recipe == "contrastive":
        raise UserError(
            "train.recipe='contrastive' is no recipe, but answers to train any of them on: set "
            "collect.safe.ask=rewrite, as configs/contrastive.yaml does (docs/method.md)"
        )
    return pages.find("recipes", recipe)


def _preset(recipe: str, page: Any, name: Any) -> dict[str, Any]:
    if name is None:
        return {}
    if not page.PRESETS:
        raise UserError(f"train.preset={name!r:.60}: recipe {recipe!r} has none; leave it out")
    if _text("train.preset", name) not in page.PRESETS:
        raise UserError(pages.unknown("train.preset", name, sorted(page.PRESETS)))
    return dict(page.PRESETS[name])


def _text(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise UserError(f"{where}={value!r:.60}: write a name here")


def checkpoints(out: Path | str) -> dict[int, Path]:
    """What a training has saved of itself in ``out``: its checkpoints by optimizer step, rising.

    A folder that somebody put beside them (``checkpoint-best``) is none of them.
    """
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(out).glob("*/"))
    return dict(sorted((int(name[1]), path) for name, path in found if name))
