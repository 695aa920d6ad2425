"""May two evaluations be compared? Same questions, same decoding, same judges set the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demur import manifest, pages
from demur.asking import moving
from demur.errors import UserError
from demur.evaluated import Evaluation


def refuse(evaluations: Mapping[str, Evaluation]) -> None:
    """Raises UserError, one line, for the first evaluation unlike the first of them, saying why.

    Judges' versions are looked at by `notes.judges`.
    """
    (first, one), *others = evaluations.items()
    for name, other in others:
        if why := differences(one, other):
            raise UserError(
                f"{first} and {name} cannot be compared: {why[0]}; evaluate both in the same way, "
                "or force the comparison"
            )


def primary(folders: Iterable[Path]) -> str:
    """The judge of harm that all evaluations name; `refusal` where they name several or none."""
    named = {str(manifest.read(folder).get("primary", "refusal")) for folder in folders}
    return named.pop() if len(named) == 1 else "refusal"


def differences(one: Evaluation, two: Evaluation) -> list[str]:
    """In words, what about two evaluations keeps them from being compared; none if nothing."""
    return [*_questions(one, two), *_decoding(one, two), *_settings(one, two)]


def _questions(one: Evaluation, two: Evaluation) -> list[str]:
    asked, others = ({a.completion.behavior for a in e.answers} for e in (one, two))
    if asked == others:
        return []
    return [f"their questions differ ({len(asked & others)} of {len(asked | others)} in common)"]


def _decoding(one: Evaluation, two: Evaluation) -> list[str]:
    old, new = (moving(_evaluate(e).get("decoding") or {}) for e in (one, two))
    if not (old and new):  # the manifest of a folder not made by demur need not say
        return []
    return _told("decoding", old, new)


def _settings(one: Evaluation, two: Evaluation) -> list[str]:
    """Attacks and judges that both had, under settings that are not the same."""
    found = []
    for folder in ("attacks", "judges"):
        old, new = (_pages(_evaluate(e).get(folder)) for e in (one, two))
        for name in old.keys() & new.keys():
            if old[name] != new[name]:
                full = (moving(_defaults(folder, name) | side[name]) for side in (old, new))
                found += _told(f"{folder.removesuffix('s')} {name!r}", *full)
    return sorted(found)


def _told(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{what} has {key} {old.get(key)!r} and {new.get(key)!r}" for key in differ]


def _evaluate(evaluation: Evaluation) -> Mapping[str, Any]:
    inputs = evaluation.manifest.get("inputs")
    found = inputs.get("evaluate") if isinstance(inputs, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _pages(chosen: Any) -> dict[str, dict[str, Any]]:
    """Settings by page; a page named twice keeps both, under its place among its namesakes."""
    found: dict[str, dict[str, Any]] = {}
    for page in chosen or []:
        name, turn = str(page["name"]).replace("-", "_"), 2
        while name in found:
            name, turn = f"{page['name']} {turn}", turn + 1
        kept_to = {"sources": page["sources"]} if page.get("sources") else {}
        found[name] = dict(page.get("settings") or {}) | kept_to
    return found


def _defaults(folder: str, name: str) -> dict[str, Any]:
    """A page's own defaults: to leave one out is to choose it."""
    fields = pages.find(folder, name.partition(" ")[0]).Settings.model_fields
    return {key: field.default for key, field in fields.items() if not field.is_required()}
