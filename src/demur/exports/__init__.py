"""An evaluation in the file formats of other tools: one page per format."""

from __future__ import annotations

import json
from pathlib import Path

from demur import evaluated, pages, records
from demur.errors import UserError
from demur.evaluated import Evaluation
from demur.exports._answers import Wanted
from demur.report.chosen import choose


def export(
    folder: Path,
    format: str,
    out: Path,
    *,
    name: str | None = None,
    scenario: str | None = None,
    judge: str | None = None,
) -> Path:
    """Write an evaluation to ``out`` in another tool's format.

    A run stands for its evaluation `after`, or its only one.
    ``format`` is a page of this folder or a dotted module, ``name`` what the model is called
    there (as on the page unless given), ``scenario`` the one to take (``prefill:k=5``) where a
    format has room for one or not all are wanted, ``judge`` the one whose word counts for harm
    (the evaluation's primary one unless given).
    Raises UserError for a partial folder, and where nothing would be written.
    """
    page = pages.find("exports", format)
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file to write to")
    [(called, chosen)] = choose([folder]).items()
    evaluation = evaluated.load(chosen.evaluation)
    judge = judge or str(evaluation.manifest.get("primary", "refusal"))
    _check_judge(evaluation, judge)
    told = page.export(evaluation, Wanted(name or called, scenario, judge))
    records.replace(out, json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return out


def _check_judge(evaluation: Evaluation, judge: str) -> None:
    if judge not in evaluation.judges:
        known = ", ".join(evaluation.judges) or "none"
        raise UserError(f"{evaluation.folder}: no verdict of the judge {judge!r}; it has: {known}")
