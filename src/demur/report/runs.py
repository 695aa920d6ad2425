"""What a training run left behind: its log as curves, its manifest, its look-alikes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.errors import UserError
from demur.evaluated import read_manifest

CURVES = {
    "loss": "Loss, all parts together",
    "learn": "Learning: cross-entropy (nats)",
    "transition": "Transitions: cross-entropy (nats)",
    "avoid": "Avoiding: the term to minimise",
    "emd": "Earth mover's distance to the unsafe token",
    "p_target": "Probability of the unsafe token, P(y)",
    "entropy": "Entropy where the model avoids; of all answers for kto and dpo (nats)",
    "open": "Share of positions not gated",
    "semantic_share": "What the semantics add, c̄ − P(y)",
    "rewards/margins": "Reward of good answers minus that of others",
    "rewards/chosen": "Reward of good answers, β log(π/π_ref)",
    "rewards/rejected": "Reward of unsafe answers, β log(π/π_ref)",
    "rewards/accuracies": "Share of pairs whose better answer has the higher reward",
    "kl": "KTO's z: drift from the starting model (nats)",
    "grad_norm": "Gradient norm",
}


@dataclass(frozen=True, slots=True)
class Training:
    """A training folder: one dict per logging step, and the manifest."""

    log: tuple[Mapping[str, Any], ...]
    manifest: Mapping[str, Any]

    @property
    def steps(self) -> int:
        return max((int(row["step"]) for row in self.log if "step" in row), default=0)

    @property
    def examples(self) -> dict[str, int]:
        """How many examples of each kind were trained on; empty where it was not noted."""
        counts = self.manifest.get("examples")
        return dict(counts) if isinstance(counts, Mapping) else {}

    @property
    def lookalikes(self) -> int | None:
        """How many look-alikes were trained on; None where the manifest does not say."""
        return self.examples.get("lookalike", 0) if self.examples else None

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one logged quantity; what is not finite is left as a gap."""
        rows = [row for row in self.log if isinstance(row.get(key), (int, float))]
        values = [float(row[key]) for row in rows]
        gaps = [v if math.isfinite(v) else math.nan for v in values]
        return [float(row.get("step", n)) for n, row in enumerate(rows)], gaps


def load(folder: Path | str) -> Training:
    """Read a training folder. Raises UserError where it or one of its files is missing."""
    folder = Path(folder)
    if not (folder / "log.jsonl").is_file():
        raise UserError(f"{folder}: no log.jsonl, so no training to show; mend the path or train")
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [_row(folder, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    return Training(tuple(rows), read_manifest(folder))


def _row(folder: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{folder / 'log.jsonl'}:{number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{folder / 'log.jsonl'}:{number}: not a JSON object")
    return row


def curves(
    runs: Sequence[Training | None],
) -> dict[str, dict[int, tuple[list[float], list[float]]]]:
    """For every quantity some run logged: its curve in each run, by the run's place."""
    drawn = {
        key: {place: run.curve(key) for place, run in enumerate(runs) if run and run.curve(key)[0]}
        for key in CURVES
    }
    return {key: lines for key, lines in drawn.items() if lines}
