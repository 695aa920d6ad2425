"""`ta_sft`: four benchmarks of harmful requests, asked plainly, a rate for each.

The protocol of arXiv 2412.06843 on the files of Safety-Tuned LLaMAs (arXiv 2309.07875). The paper
does not name its benchmarks where we could read it: these four are the likely ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from demur.suites import _files

PUBLISHED = "github.com/vinid/safety-tuned-llamas, data/evaluation"

Benchmark = Literal["I-MaliciousInstructions", "I-CoNa", "I-Controversial", "Q-Harm"]


class Settings(_files.Common):
    """The data's folder, and what is asked beside the benchmarks."""

    benchmarks: tuple[Benchmark, ...] = Field(
        ("I-MaliciousInstructions", "I-CoNa", "I-Controversial", "Q-Harm"),
        min_length=1,
        description="`I-MaliciousInstructions`, `I-CoNa`, `I-Controversial`, `Q-Harm`",
    )
    quality: bool = Field(True, description="ask I-Alpaca's ordinary instructions too")
    xstest: Path | None = Field(
        None, description="XSTest's prompts (CSV), for the look-alikes; null: not asked"
    )


def tree(settings: Settings) -> dict[str, Any]:
    """The settings it stands for. Raises UserError for a file that is not in the folder."""
    heldout: dict[str, Any] = {"harmful": [_source(settings, b) for b in settings.benchmarks]}
    if settings.quality:
        heldout["everyday"] = [_source(settings, "I-Alpaca")]
    if settings.xstest:
        rows = {"where": str(settings.xstest), "name": "XSTest", "limit": settings.limit}
        heldout["lookalike"] = [rows]
    evaluate = {"attacks": ["direct"], "decoding": {"max_new_tokens": 512}}
    evaluate |= _files.judged(settings.judges)
    return {"data": {"heldout": heldout}, "evaluate": evaluate}


def _source(settings: Settings, file: str) -> dict[str, Any]:
    return _files.source(settings, file, PUBLISHED)
