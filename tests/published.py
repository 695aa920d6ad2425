"""The public test prompts that attacks are held to, where the folder is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def questions(name: str) -> list[str]:
    """The prompts of one of DeRTa's test files, in order; the test is skipped without it."""
    root = Path(os.environ.get("DEMUR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "derta" / f"{name}.first.json"
    if not path.exists():
        pytest.skip(f"no {path}: set DEMUR_DATA to a folder with DeRTa's test prompts")
    return [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()]
