"""What made a folder: settings, seed, versions, fingerprints of data and chat template.

A stage writes its manifest first, as ``running``, and says ``done`` last. The same command
again continues a running stage and passes over a done one; another command is refused, so that
no result is ever a mixture of two.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from demur import __version__, processes
from demur.errors import UserError
from demur.records import fingerprint, replace

FILE = "manifest.json"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "numpy")


def begin(folder: Path, inputs: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> bool:
    """Open a stage; True if it is done already. ``facts`` are noted, ``inputs`` must agree.

    Raises UserError if the folder was made from other inputs, or cannot be written to.
    """
    if done(folder, inputs):
        return True
    head = {"status": "running", "inputs": _plain(inputs), "versions": versions()}
    _write(folder, head | dict(facts or {}))
    return False


def done(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a stage has been finished. Raises UserError if it was made from other inputs.

    A running stage that has left nothing beside its manifest was made from nothing yet.
    """
    found, told = read(folder), _plain(inputs)
    if found and found["inputs"] != told:
        if found["status"] == "running" and [f.name for f in folder.iterdir()] == [FILE]:
            return False
        raise UserError(
            f"{folder} was made with {_difference(found['inputs'], told)}: "
            "choose another output, or remove that folder"
        )
    return found.get("status") == "done"


def reopen(folder: Path, inputs: Mapping[str, Any], **facts: Any) -> None:
    """Let a stage that has been made go on from other ``inputs``: the caller knows what stays."""
    _write(folder, read(folder) | {"status": "running", "inputs": _plain(inputs)} | facts)


def note(folder: Path, **facts: Any) -> None:
    """Facts that a finished stage is to be read with; nothing is written where they stand."""
    found = read(folder)
    if found != found | facts:
        _write(folder, found | facts)


def finish(folder: Path, **facts: Any) -> None:
    """Close a stage and note what came of it."""
    _write(folder, read(folder) | {"status": "done"} | facts)


def read(folder: Path) -> dict[str, Any]:
    """A folder's manifest; empty where there is none. Raises UserError for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"status", "inputs"} <= found.keys():
        raise UserError(f"{path} is no manifest of demur: remove it, or choose another output")
    return found


def versions() -> dict[str, str]:
    """demur, Python and the libraries that can move a result."""
    found = {"demur": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def of(records: Iterable[Any]) -> str:
    """A fingerprint of records, all their fields and their order: both move what comes of them."""
    return fingerprint([asdict(record) for record in records])


def files(settings: Iterable[Any]) -> dict[str, str]:
    """A fingerprint of each file, and of every file in each folder, that settings name.

    Settings hold where a file lies; what it says may change under them.
    """
    named = {str(value) for group in settings for _, value in group if _is_path(value)}
    return {name: _content(Path(name)) for name in sorted(named)}


def _is_path(value: Any) -> bool:
    """A path by its type, or a text that is one: what may be a hub id too is declared as text."""
    return isinstance(value, Path) or _is_file(value)


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value, str) and Path(value).is_file()
    except (OSError, ValueError):  # a text too long, or with a null byte, is no path
        return False


def _content(where: Path) -> str:
    whole = where if where.is_dir() else where.parent  # what lies deeper goes by its place there
    inside = sorted(where.rglob("*")) if where.is_dir() else [where]
    files = [file for file in inside if file.is_file()]
    found = [(file.relative_to(whole).as_posix(), file.read_bytes()) for file in files]
    return fingerprint([(name, hashlib.sha256(content).hexdigest()) for name, content in found])


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(inputs, default=str)))


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    if processes.first():  # a training's processes all come by here
        replace(folder / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first setting two input trees disagree on, by name: ``seed = 0, not 1``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(old, list) and isinstance(new, list) and (told := _entries(old, new)):
        return f"{path} {told}"
    return f"{path} = {_brief(old)}, not {_brief(new)}"


def _entries(old: list[Any], new: list[Any]) -> str:
    """What one of two lists alone holds; nothing where they differ in their order only."""
    told = {"with": [e for e in old if e not in new], "without": [e for e in new if e not in old]}
    said = [f"{word} {', '.join(map(_brief, found))}" for word, found in told.items() if found]
    return " and ".join(said)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
