"""From hidden states to logits, as the model itself goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import adapters

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The map from hidden states [N, d] to logits [N, V], as the model itself scales them.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma bends with
    a soft-cap; the losses must see the same logits that generation does.
    """

    module: Any
    scale: float
    softcap: float | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        import torch

        z: torch.Tensor = self.module.forward(hidden)  # its hooks are the model's forward's
        z = z * self.scale if self.scale != 1.0 else z
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap else z

    @property
    def obstacle(self) -> str | None:
        """Why the matrix is not all there is, if so: an adapter on it, shards, quantised weights.

        A matrix that FSDP or ZeRO-3 has split is whole inside the layer's forward, and there only.
        """
        import torch

        kind = type(self.module)
        if hasattr(self.module, "base_layer"):  # PEFT's name for what it has wrapped
            return "the output layer has an adapter on it"
        if kind.forward is not torch.nn.Linear.forward:
            return f"the output layer is no torch.nn.Linear but {kind.__module__}.{kind.__name__}"
        if type(self.module.weight.data) is not torch.Tensor:
            return f"the output layer's weights are a {type(self.module.weight.data).__name__}"
        return None


def head(model: Any) -> Head:
    """The model's own output layer."""
    inner = adapters.bare(model)
    settings = inner.config.get_text_config()
    scale = getattr(settings, "logit_scale", None) or 1.0
    scale /= getattr(settings, "logits_scaling", None) or 1.0
    return Head(
        inner.get_output_embeddings(), scale, getattr(settings, "final_logit_softcapping", None)
    )
