"""A folder is a registry: find a page by its name, or say which names exist."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType

from demur.errors import UserError


def names(folder: str) -> list[str]:
    """The pages of ``demur.<folder>``, as users write them (``ta_sft``), sorted."""
    package = importlib.import_module(f"demur.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


# What a page has to bring; a dotted name may lead to any module.
PROVIDES = {
    "recipes": ("Settings", "PRESETS", "rows", "objective"),
    "attacks": ("Settings", "attack"),
    "judges": ("Settings", "VERSION", "judge"),
    "sources": ("examples",),
    "exports": ("export",),
    "suites": ("Settings", "tree"),
}


def find(folder: str, name: str) -> ModuleType:
    """The page ``name`` of ``demur.<folder>``; a dotted name is imported as it stands.

    Dashes and underscores are the same. Raises UserError with the known names otherwise; an
    error inside a page is its own and goes through.
    """
    if "." in name:
        return _dotted(folder, name)
    known, wanted = names(folder), name.replace("-", "_")
    if wanted not in known:
        raise UserError(unknown(folder.removesuffix("s"), name, known))
    return importlib.import_module(f"demur.{folder}.{wanted}")


def _dotted(folder: str, name: str) -> ModuleType:
    try:
        found = importlib.import_module(name) if name.strip(".") == name else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the page is there; what it imports is not
        found = None
    if found is None:
        raise UserError(
            f"{folder}: no module {name!r} on the Python path; install it or fix the name"
        )
    if missing := [part for part in PROVIDES[folder] if not hasattr(found, part)]:
        raise UserError(f"{folder}: module {name!r} is no page: it lacks {', '.join(missing)}")
    return found


def unknown(what: str, name: str, known: Sequence[str], prefix: str = "") -> str:
    """One line for a name nobody knows: the nearest one, and all unless they are too many.

    ``prefix`` stands before the names and is no part of their likeness.
    """
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hints = [f"did you mean {prefix + near[0]!r}?"] if near else []
    if not near or len(known) <= 12:
        hints.append(f"known: {', '.join(known)}")
    return f"unknown {what} {prefix + name!r}: {' '.join(hints)}"
