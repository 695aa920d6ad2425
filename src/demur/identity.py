"""What tells two models apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from demur import names, templates
from demur.records import fingerprint
from demur.settings import Model


def identity(settings: Model) -> dict[str, Any]:
    """What tells two models apart: a hub id by its name and revision, a folder by what it holds.

    A folder may be moved and is the same model; trained on, it is another. A served model is its
    address, its name there and what requests say; how patiently it is asked makes no other.
    """
    found = names.resolve(settings)
    template = settings.chat_template and fingerprint(templates.chosen(settings.chat_template))
    local = () if settings.endpoint else ("name", "adapter")
    named = {key: _held(name) for key in (*local, "tokenizer") if (name := getattr(found, key))}
    told = found.model_dump(exclude={"endpoint", "tokenizer"}) | named | {"chat_template": template}
    if settings.endpoint:
        told["endpoint"] = settings.endpoint.model_dump(include={"base_url", "prompts", "extra"})
    return told


def fingerprint_of(settings: Model) -> str:
    """The `identity` in sixteen digits, as completions carry it."""
    return fingerprint(identity(settings))


def _held(name: str) -> str:
    """A folder's files by the digest of their ends: cheap, and it moves with training."""
    where = names.locate(name)
    if not Path(where).is_dir():
        return name
    files = names.files(where, (*names.WEIGHTS, *names.TOKENIZER, *names.BESIDE))
    return "files " + fingerprint([(file.name, _digest(file)) for file in files])


def _digest(file: Path, tail: int = 4 << 20) -> object:
    if file.name == "tokenizer_config.json":  # transformers notes there how it was loaded
        told = json.loads(file.read_bytes())
        return {key: value for key, value in told.items() if "local" not in key}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - tail))
        return file.stat().st_size, hashlib.sha256(stream.read()).hexdigest()
