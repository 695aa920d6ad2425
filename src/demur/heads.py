"""From hidden states to logits, as the model itself goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import adapters
from demur.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The map from hidden states [N, d] to logits [N, V], as the model itself scales them.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma bends with
    a soft-cap; the losses must see the same logits that generation does, which `prove` looks at.
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


SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def head(model: Any) -> Head:
    """The model's own output layer, and what its configuration says is done after it."""
    inner = adapters.bare(model)
    settings = inner.config.get_text_config()
    scale = getattr(settings, "logit_scale", None) or 1.0
    scale *= getattr(settings, "lm_head_multiplier", None) or 1.0
    after = getattr(settings, "logits_scaling", None) or 1.0
    scale *= after if settings.model_type.startswith("hyperclovax") else 1 / after
    caps = (cap for name in SOFTCAPS if (cap := getattr(settings, name, None)))
    return Head(inner.get_output_embeddings(), scale, next(caps, None))


def prove(model: Any, ids: Sequence[int]) -> None:
    """One forward of a whole model on a few ``ids``, to see that its `head` is all there is.

    Raises UserError where the logits of the model's own forward are others.
    """
    import torch

    inner, seen = adapters.bare(model.eval()), []
    told = torch.tensor([list(ids)], device=next(model.parameters()).device)
    watch = inner.get_decoder().register_forward_hook(lambda *call: seen.append(call[-1]))
    forward = type(inner).forward  # not what an earlier training has wrapped it in, autocast say
    try:
        with torch.no_grad():
            own = forward(inner, input_ids=told, use_cache=False, logits_to_keep=1).logits[:, -1]
            hidden = getattr(seen[-1], "last_hidden_state", None) if seen else None
            found = None if hidden is None else head(model)(hidden[:, -1])
    finally:
        watch.remove()
    if found is None or not _alike(found, own):
        raise UserError(
            f"{type(inner).__name__} does more between its hidden states and its logits than demur "
            "knows of, and would be trained on other ones than it answers by: take another model, "
            "or recipe dpo or kto"
        )


def _alike(found: torch.Tensor, own: torch.Tensor) -> bool:
    """Equal but for rounding; what is no number is looked at elsewhere."""
    import torch

    off = (found - own).nan_to_num(0.0, 0.0, 0.0).abs().max()
    slack = max(4 * torch.finfo(own.dtype).eps, 1e-4)
    return bool(off <= slack * own.nan_to_num(0.0, 0.0, 0.0).abs().max())
