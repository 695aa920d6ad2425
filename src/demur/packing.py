"""The rows of a pass end to end in one sequence: nothing is padded, and no row sees another.

Positions start over with each row, and attention stays within it: a variable-length kernel on a
GPU where the flash-attn package is, elsewhere one call of scaled_dot_product_attention a row. No
mask of sequence × sequence is ever made. Only the layout differs: rows, targets and counts of a
step are those of padded rows, and so are its losses and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import is_flash_attn_2_available

from demur import adapters, progress, supervision
from demur.batches import Deal, alike, even
from demur.errors import UserError
from demur.fitting import Fit
from demur.supervision import IGNORE, Row

Layout = Callable[[Sequence[Row]], dict[str, Tensor]]  # how the rows of a pass become tensors
DOCUMENTS = "demur_documents"
FLASH = "flash_attention_2"


def pack(rows: Sequence[Row]) -> dict[str, Tensor]:
    """[1, tokens] tensors: input_ids, position_ids, labels, avoid and row, the number of each's.

    ``ends`` [rows + 1] is where rows end, from 0 on, and ``transition`` [rows] as in
    `supervision.collate`.
    """

    def told(name: str) -> Tensor:  # a row's first token has nothing before it to predict it
        values = ((IGNORE, *getattr(row, name)[1:]) for row in rows)
        return torch.tensor([list(chain.from_iterable(values))])

    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": torch.tensor([list(chain.from_iterable(row.input_ids for row in rows))]),
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        "labels": told("labels"),
        "avoid": told("avoid"),
        "row": torch.arange(len(rows)).repeat_interleave(lengths)[None],
        "ends": torch.tensor([0, *accumulate(map(len, rows))], dtype=torch.int32),
        "transition": torch.tensor([row.kind == "transition" for row in rows]),
    }


def inputs(batch: dict[str, Tensor]) -> dict[str, Any]:
    """What the model is given of a batch, packed or padded."""
    if "ends" not in batch:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}
    lengths = batch["ends"].diff().tolist()  # asked of the device once, not in every layer
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "lengths": tuple(lengths),
        "cu_seq_lens_q": batch["ends"],  # as transformers calls what flash-attn takes
        "cu_seq_lens_k": batch["ends"],
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    lengths: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention within each row of a pack: [1, heads, tokens, d] -> [1, tokens, heads, d].

    An attention function of transformers. Raises UserError if the model has not handed down
    ``lengths``: rows would see each other.
    """
    if lengths is None:
        raise UserError(f"{type(module).__name__} cannot be packed: set train.packing=false")
    apart = (torch.split(states, list(lengths), dim=2) for states in (query, key, value))
    rows = zip(*apart, strict=True)
    found = [sdpa_attention_forward(module, *row, attention_mask=None, **options) for row in rows]
    return torch.cat([states for states, _ in found], dim=1), None


def layout(attention: str | None, pad: int, size: int) -> tuple[Layout, Deal]:
    """How ``size`` rows become the tensors of a pass, and how a step's rows are dealt to passes."""
    if attention:
        return pack, partial(even, size=size)
    return partial(supervision.collate, pad=pad), alike


def chosen(model: Any, fit: Fit, bf16: bool) -> str | None:
    """The attention that rows are packed with; None where they are padded.

    ``bf16``: whether a step is computed in mixed precision (flash-attn needs half precision).
    Raises UserError if packing is asked for and the model's attention does not allow it.
    """
    inner = adapters.bare(model)
    flash = _flash(inner, bf16)
    obstacle = _obstacle(inner, None if flash else fit.max_length)
    if fit.packing and obstacle:
        raise UserError(f"train.packing=true, but {obstacle}: set train.packing=false")
    if fit.packing is None and obstacle:
        progress.say(f"rows are padded, not packed: {obstacle}")
    if fit.packing is False or obstacle:
        return None
    return FLASH if flash else DOCUMENTS


def _flash(model: Any, bf16: bool) -> bool:
    half = bf16 or model.dtype in (torch.bfloat16, torch.float16)
    there = model.device.type == "cuda" and is_flash_attn_2_available()
    return bool(half and there and model._supports_flash_attn)


def _obstacle(model: Any, longest: int | None) -> str | None:
    """Why rows cannot share a sequence in this model, if so."""
    settings = model.config.get_text_config()
    if not type(model).__module__.startswith("transformers."):
        return f"{type(model).__name__} brings its own code, of which nothing is known"
    if settings._attn_implementation != "sdpa" or not model._supports_attention_backend:
        return f"{type(model).__name__} has an attention of its own"
    kinds = set(getattr(settings, "layer_types", None) or ())
    if model._is_stateful or kinds - {"full_attention", "sliding_attention"}:
        return f"{type(model).__name__} has layers that see more than their row"
    window = getattr(settings, "sliding_window", None)
    if longest and window and window < longest and kinds != {"full_attention"}:
        return f"a row may have {longest} tokens, and its attention sees {window}"
    return None


@contextmanager
def attending(model: Any, attention: str | None) -> Iterator[None]:
    """The model with this attention, and with its own again afterwards; None changes nothing."""
    if attention is None:
        yield
        return
    inner = adapters.bare(model)
    own = inner.config._attn_implementation
    AttentionInterface.register(DOCUMENTS, attend)
    inner.set_attn_implementation(attention)
    try:
        yield
    finally:
        inner.set_attn_implementation(own)
