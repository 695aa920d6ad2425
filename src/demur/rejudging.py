"""What has been answered is asked of other judges: the answers stay, and so what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demur import manifest, records
from demur.asking import spoken_as
from demur.records import Verdict

Inputs = Mapping[str, Any]
ANSWERED = "answered"  # in the manifest of an evaluation all of whose answers are there


def reopen(folder: Path, inputs: Inputs) -> bool:
    """Open an evaluation that differs in its judges alone; True if all of its answers are there.

    Verdicts of a judge that is still wanted, and set as it was, are kept. Nothing is done to a
    folder that lacks answers, or is made from anything else: `manifest.begin` sees to those.
    """
    found, new = manifest.read(folder), json.loads(json.dumps(inputs, default=str))
    if not (ANSWERED in found or found.get("status") == "done"):
        return False
    if (old := found["inputs"]) == new:
        return ANSWERED in found
    if _but_judges(old, new) != _but_judges(new, old):
        return False
    # Whoever stops after this line finds it unfinished, and not without verdicts.
    manifest.reopen(folder, old, **{ANSWERED: True})
    kept = [spoken_as(judge["name"]) for judge in _judges(new) if judge in _judges(old)]
    path = folder / "verdicts.jsonl"
    records.write(path, [v for v in records.resume(path, Verdict) if v.judge in kept])
    manifest.reopen(folder, new)
    return True


def _but_judges(inputs: Inputs, other: Inputs) -> dict[str, Any]:
    """All but the judges; a file counts where both read it, as a judge may be the one to."""
    evaluate = {k: v for k, v in inputs.get("evaluate", {}).items() if k != "judges"}
    shared = inputs.get("files", {}).keys() & other.get("files", {}).keys()
    files = {name: inputs["files"][name] for name in shared}
    return dict(inputs) | {"evaluate": evaluate, "files": files}


def _judges(inputs: Inputs) -> list[dict[str, Any]]:
    return list(inputs.get("evaluate", {}).get("judges", []))
