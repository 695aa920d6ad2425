"""The model that another one is taken to have come from, for the drift between the two."""

from __future__ import annotations

from demur import evaluate, models, names, tokenizers
from demur.config import Run
from demur.errors import UserError
from demur.progress import say
from demur.settings import Model


def start_of(model: Model, config: Run) -> Model | None:
    """What a ``model`` that was given by hand started from: the run's own model.

    Where the run is about this model alone, the base of its adapter. None, and a line that says
    why, where it is not known or its distributions cannot be compared; raises UserError for that
    where ``evaluate.drift`` was asked for, and for a model that cannot be read.
    """
    if config.evaluate.drift is None or model.endpoint:
        return None
    models.check(model)
    tokenizers.load(model)  # what is wrong with the model itself is said first
    try:
        start = _known(model, config)
        evaluate.check_start(start, model)
    except UserError as error:
        if "drift" in config.evaluate.model_fields_set:
            raise UserError(f"evaluate.drift of {model.name!r}: {error}") from None
        say(f"its drift from where it started is not measured: {error}")
        return None
    return start


def _known(model: Model, config: Run) -> Model:
    if config.model.endpoint:
        raise UserError(f"start={config.model.name!r} is served and shows no distributions")
    if model != config.model:
        return config.model
    if (whole := names.resolve(model)).adapter:
        return whole.model_copy(update={"adapter": None})
    raise UserError(
        f"nobody says what {model.name!r} started from: give --model to a configuration whose "
        "`model` that is"
    )
