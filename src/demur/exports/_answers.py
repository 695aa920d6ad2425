"""What the formats share: which answers are wanted, and when they were given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from demur import evaluated
from demur.errors import UserError
from demur.evaluated import Answer, Evaluation
from demur.records import Kind


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the model is called, the scenario to take (None: the format's own choice), the judge."""

    name: str
    scenario: str | None
    judge: str


def answers(evaluation: Evaluation, scenario: str, kind: Kind) -> list[Answer]:
    """The answers of one scenario to one kind of request. Raises UserError if there is none."""
    groups = evaluated.grouped(evaluation.answers)
    if (scenario, kind) not in groups:
        known = ", ".join(scenario for scenario, asked in groups if asked == kind) or "none"
        raise UserError(
            f"{evaluation.folder}: no {kind} request was asked by {scenario!r}; "
            f"scenarios with such: {known}"
        )
    return groups[scenario, kind]


def given(evaluation: Evaluation) -> datetime:
    """When the last answer was written down, in UTC."""
    written = (evaluation.folder / "completions.jsonl").stat().st_mtime
    return datetime.fromtimestamp(int(written), UTC)
