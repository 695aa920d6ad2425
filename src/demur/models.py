"""A model's weights: whether they are there, and loaded with adapter and precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import adapters, hub, names, noise, processes, weights
from demur.errors import UserError
from demur.settings import Model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check(settings: Model) -> None:
    """Raises UserError unless a model and its adapter are there; no weight is read.

    A hub is asked once, and not at all for what was fetched before. Of a served model it is the
    key that has to be there; nobody is asked yet.
    """
    if settings.endpoint:
        settings.endpoint.key()
        return
    found = names.resolve(settings)
    for name, revision in ((found.name, found.revision), (found.adapter, None)):
        if name and Path(folder := names.locate(name)).is_dir():
            _check_folder(Path(folder))
        elif name:
            hub.find(name, revision)


def _check_folder(folder: Path) -> None:
    if not names.files(folder, names.WEIGHTS):
        raise UserError(f"{folder}: no weights in it (*.safetensors); is it the right folder?")
    weights.refuse_pickled(folder)


def load(settings: Model, full: bool = False) -> PreTrainedModel:
    """The weights in eval mode on the best device, with their adapter if they have one.

    ``full`` announces full fine-tuning: an adapter becomes part of the weights, and these are
    not taken in half precision, where small updates would be lost.
    Raises UserError if the weights cannot be loaded, or are not all there.
    """
    import torch
    from safetensors import SafetensorError

    found = names.resolve(settings)
    where = names.locate(found.name)
    try:
        _refuse_pickled(found)
        with noise.quiet(bars=not Path(where).is_dir()):  # a download is worth one
            model = _causal_lm(found, where, full)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise names.refusal(settings, "cannot be loaded", error) from None
    if torch.cuda.is_available() and not processes.split():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return model.eval()


def _refuse_pickled(settings: Model) -> None:
    for name, revision in ((settings.name, settings.revision), (settings.adapter, None)):
        if name and Path(where := names.locate(name)).is_dir():
            weights.refuse_pickled(where)
        elif name:
            weights.refuse_pickled_adapter(name, revision)


def _causal_lm(settings: Model, where: str, full: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        where,
        revision=settings.revision,
        dtype=_dtype(settings.dtype, full),
        trust_remote_code=settings.trust_remote_code,
        use_safetensors=True,  # of a hub too: no pickle is ever read
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):
        raise UserError(  # transformers would put random numbers there
            f"model {settings.name!r} lacks {len(missing)} of its weights, the first being "
            f"{missing[0]!r}: it is cut off, or no causal language model"
        )
    if not settings.adapter:
        return model
    adapted = adapters.attached(model, names.locate(settings.adapter))
    return adapted.merge_and_unload() if full else adapted


def _dtype(choice: str, full: bool) -> torch.dtype:
    import torch

    if choice == "auto":
        half = not full and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        choice = "bfloat16" if half else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[choice]
