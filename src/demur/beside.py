"""A model loaded beside the one under test: it writes for an attack, or it judges."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from demur import models, sampler, tokenizers
from demur.errors import SettingError, UserError
from demur.settings import Model, Settings


class Loaded(Settings):
    """Which model, and how much it may say; ``SERVED`` is how to name one that is served."""

    SERVED: ClassVar[str]
    model: Model = Field(description="as `model` of the run is written")
    max_new_tokens: int = Field(512, gt=0, description="tokens a reply may have")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        """Found with its tokenizer before anything is loaded, as the model under test is."""
        if self.model.endpoint:
            raise SettingError(
                f"model.endpoint={self.model.endpoint.base_url}: a served model is named by "
                f"{self.SERVED}, and not under `local`"
            )
        try:
            _check(self.model.model_dump_json())
        except UserError as error:
            said = str(error).removeprefix(named := f"model {self.model.name!r}")
            tail = said if str(error).startswith(named) else f": {said}"
            raise SettingError(f"model.name={self.model.name}{tail}") from None
        return self

    def target(self) -> Any:
        """The model, loaded once for all who ask it. Raises UserError if it cannot be loaded."""
        return _target(self.model.model_dump_json())


@lru_cache(maxsize=8)  # settings are checked again wherever they are read
def _check(settings: str) -> None:
    model = Model.model_validate_json(settings)
    models.check(model)
    tokenizers.load(model)


@lru_cache(maxsize=2)
def _target(settings: str) -> sampler.Sampler:
    return sampler.sampler(Model.model_validate_json(settings))
