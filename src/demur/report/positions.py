"""Where the first refusal of an answer stands: DeRTa's figure of a bias towards the beginning.

In words of the answer itself, what was put in the model's mouth not counted (Yuan et al. 2024,
arXiv 2407.09121, count tokens; words need no tokenizer and compare models that have several).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from demur.measures import Answer, Evaluation, outcome, spoken
from demur.report import plots, words

NEVER = "none"
LAST = {"1": 1, "2–5": 5, "6–15": 15, "16–30": 30, "31–60": 60, "> 60": None}  # words
BINS = (*LAST, NEVER)


def position(answer: Answer) -> str | None:
    """The bin of an answer's first refusal, ``none`` without one; None where nobody can say.

    Broken answers are left out. A late refusal counts here, though its answer counts as answered.
    """
    if outcome(answer.verdicts) in ("broken", "unscored"):
        return None
    detail = next(v.detail for v in answer.verdicts if v.judge == "refusal")
    if "start" not in detail:
        return None
    return NEVER if detail["start"] is None else _bin(answer.completion.text, detail["start"])


def _bin(text: str, start: int) -> str:
    word = len(text[:start].split()) + 1
    return next(name for name, last in LAST.items() if last is None or word <= last)


def counts(evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """By scenario: how many answers to harmful requests have their first refusal in each bin."""
    found: dict[str, dict[str, int]] = {}
    for answer in evaluation.answers:
        scenario, kind = answer.group
        if kind == "harmful" and (place := position(answer)):
            found.setdefault(scenario, dict.fromkeys(BINS, 0))[place] += 1
    return found


def drawings(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """A histogram for each scenario that some model refused in; before and after side by side."""
    found = [counts(evaluation) for evaluation in evaluations]
    scenarios = dict.fromkeys(scenario for each in found for scenario in each)
    titles = {scenario: words.line(spoken(scenario)) for scenario in scenarios}
    return {
        title: plots.histogram(title, BINS, _rows(found, scenario))
        for scenario, title in titles.items()
    }


def _rows(found: Sequence[Mapping[str, Mapping[str, int]]], scenario: str) -> list[list[int]]:
    return [list(each.get(scenario, dict.fromkeys(BINS, 0)).values()) for each in found]
