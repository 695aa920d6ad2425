"""Weights are read from safetensors alone: a pickle can run code as it is read.

transformers and PEFT take pickled files where they find no others, `use_safetensors` or not where
it is about adapters. So it is looked before they are asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from demur.errors import UserError

# What is pickled, and what has to lie beside it to be read in its place.
INSTEAD = {
    "pytorch_model*.bin": "model*.safetensors",
    "adapter_model.bin": "adapter_model.safetensors",
}
_CURE = (
    "pickled weights can run code as they are read: load them where you trust them and save them "
    "as safetensors (model.save_pretrained)"
)


def refuse_pickled(folder: Path | str) -> None:
    """Raises UserError if only pickles could be read of a folder; what is no folder is left be."""
    if pickled := next(_pickled(Path(folder)), None):
        raise UserError(f"{pickled}: {_CURE}")


def refuse_pickled_adapter(name: str, revision: str | None = None) -> None:
    """The same for an adapter of a hub, of which no more than its small files may be fetched.

    Whole models are kept from it by ``use_safetensors=True``. Raises OSError where the hub cannot
    be asked.
    """
    from transformers.utils import cached_file

    def has(file: str) -> bool:
        found = cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        return found is not None

    if has("adapter_config.json") and not has("adapter_model.safetensors"):
        raise UserError(f"adapter {name!r} has no adapter_model.safetensors: {_CURE}")


def _pickled(folder: Path) -> Iterator[Path]:
    for pickled, safe in INSTEAD.items():
        if not any(folder.glob(safe)):
            yield from sorted(folder.glob(pickled))
    for index in folder.glob("*.safetensors.index.json"):  # it may name any file
        yield from (folder / name for name in _shards(index) if not name.endswith(".safetensors"))


def _shards(index: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(index.read_bytes())["weight_map"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: no index of weights; save the model again") from None
