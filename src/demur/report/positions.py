"""Where the first refusal of an answer stands: DeRTa's figure of a bias towards the beginning.

In tokens of the answer itself, what was put in the model's mouth not counted (Yuan et al. 2024,
arXiv 2407.09121): its first five, the next to the thirtieth, later. Answers that came without
their tokenizer, as those of a server may, are counted in words, and so are all beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from demur.evaluated import Answer, Evaluation
from demur.measures import spoken
from demur.outcomes import outcome
from demur.records import REACH, Completion
from demur.report import plots, words

Unit = Literal["token", "word"]
NEVER = "none"
BINS = (f"1–{REACH[0]}", f"{REACH[0] + 1}–{REACH[1]}", f"> {REACH[1]}", NEVER)


def unit(evaluations: Iterable[Evaluation]) -> Unit:
    """What positions are counted in: tokens where every answer that is counted tells of them."""
    asked = (a.completion for e in evaluations for a in e.answers if _first(a) is not None)
    return "token" if all(len(c.reach) == len(REACH) for c in asked) else "word"


def position(answer: Answer, of: Unit) -> str | None:
    """The bin of an answer's first refusal, ``none`` without one; None where nobody can say.

    Broken answers are left out. A late refusal counts here, though its answer counts as answered.
    """
    start = _first(answer)
    if start is None:
        return None
    return NEVER if start < 0 else _bin(answer.completion, start, of)


def _first(answer: Answer) -> int | None:
    """The character where the first refusal starts, -1 without one; None where nobody can say."""
    if answer.group[1] != "harmful" or outcome(answer.verdicts) in ("broken", "unscored"):
        return None
    detail = next(v.detail for v in answer.verdicts if v.judge == "refusal")
    if "start" not in detail:
        return None
    return -1 if detail["start"] is None else int(detail["start"])


def _bin(completion: Completion, start: int, of: Unit) -> str:
    if of == "token":
        past = [start >= end for end in completion.reach]
    else:
        past = [len(completion.text[:start].split()) >= end for end in REACH]
    return BINS[sum(past)]


def counts(evaluation: Evaluation, of: Unit) -> dict[str, dict[str, int]]:
    """By scenario: how many answers to harmful requests have their first refusal in each bin."""
    found: dict[str, dict[str, int]] = {}
    for answer in evaluation.answers:
        if place := position(answer, of):
            found.setdefault(answer.group[0], dict.fromkeys(BINS, 0))[place] += 1
    return found


def drawings(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """A histogram for each scenario that some model refused in; before and after side by side."""
    of = unit(evaluations)
    found = [counts(evaluation, of) for evaluation in evaluations]
    scenarios = dict.fromkeys(scenario for each in found for scenario in each)
    titles = {scenario: words.line(spoken(scenario)) for scenario in scenarios}
    return {
        title: plots.histogram(title, BINS, _rows(found, scenario))
        for scenario, title in titles.items()
    }


def _rows(found: Sequence[Mapping[str, Mapping[str, int]]], scenario: str) -> list[list[int]]:
    return [list(each.get(scenario, dict.fromkeys(BINS, 0)).values()) for each in found]
