"""Low-rank adapters: the only file that knows peft."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from demur import noise, processes
from demur.errors import UserError
from demur.fitting import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_lora(model: PreTrainedModel, lora: Lora, seed: int) -> PreTrainedModel:
    """The model with fresh trainable low-rank matrices, the same for the same seed.

    Raises UserError where ``lora.target_modules`` names nothing that can have them, or an output
    layer that is the embedding too and is to be tied to it anew.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    with noise.quiet(), fitting(lora):
        adapted = get_peft_model(model, lora_config(lora))
    if processes.ties_anew() and _on_tied_head(model):
        raise UserError(
            f"train.lora.target_modules={_targets(lora)!r}: accelerate does not split an adapter "
            "on an output layer that is the embedding too: leave lm_head out, or launch with "
            "fsdp_cpu_ram_efficient_loading: false"
        )
    return adapted


def _on_tied_head(model: PreTrainedModel) -> bool:
    """Whether an adapter lies on an output layer that is the embedding too."""
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    return tied and hasattr(head, "base_layer")


@contextmanager
def fitting(lora: Lora | None) -> Iterator[None]:
    """What PEFT says of modules that a model has not, or cannot adapt, is a UserError."""
    try:
        yield
    except ValueError as error:
        if lora is None or not re.search(r"target.module", str(error), re.IGNORECASE):
            raise
        raise UserError(
            f"train.lora.target_modules={_targets(lora)!r} does not fit this model: name linear "
            "layers of it by the last part of their names, or take 'all-linear'"
        ) from None


def lora_config(lora: Lora) -> Any:
    """What PEFT makes an adapter from."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(lora),
        task_type=TaskType.CAUSAL_LM,
    )


def _targets(lora: Lora) -> str | list[str]:
    modules = lora.target_modules
    return modules if isinstance(modules, str) else list(modules)


def attached(model: PreTrainedModel, folder: str) -> Any:
    """The model with the adapter of a folder or hub id, which can be trained on."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def merged(model: Any) -> Any:
    """The model with its adapter added into the weights, which decodes faster.

    In half precision the sum would be rounded, so there the adapter stays beside them.
    """
    import torch

    foldable = hasattr(model, "merge_and_unload") and model.dtype == torch.float32
    return model.merge_and_unload() if foldable else model


def bare(model: Any) -> Any:
    """The causal language model inside an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
