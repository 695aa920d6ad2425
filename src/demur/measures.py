"""An evaluation becomes figures: its answers counted, with the interval of each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur import corrected, evaluated, metrics, outcomes
from demur.corrected import Corrected, Errors
from demur.errors import UserError
from demur.evaluated import Answer, Evaluation, Likelihood
from demur.outcomes import Better, Counted
from demur.records import Kind, Label

LIKELIHOODS: Mapping[str, tuple[Kind, ...]] = {
    "unsafe": ("harmful",),
    "benign": ("lookalike", "everyday"),
}
SURPRISE: Mapping[str, tuple[Better, str]] = {
    "unsafe": ("higher", "Surprise at unsafe answers, nats a token"),
    "benign": ("lower", "Surprise at good answers, nats a token"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report with its interval, its ``n`` scored answers and what is better.

    ``corrected`` is the rate behind it, where the judge's errors are known.
    """

    key: str
    title: str
    group: str
    better: Better
    value: metrics.Rate | metrics.Estimate
    n: int
    corrected: Corrected | None = None


def figures(folder: Path | str, primary: str = "refusal") -> list[Figure]:
    """Every figure of an evaluation folder. Raises UserError for a partial folder."""
    return measure(evaluated.load(folder), primary)


def measure(evaluation: Evaluation, primary: str = "refusal") -> list[Figure]:
    """Every figure of a loaded evaluation, keyed ``scenario/kind/label``."""
    _check_judges(evaluation, primary)
    known = errors(evaluation, primary)
    rates = [
        _rate(scenario, kind, what, answers, primary, known.get(what.label))
        for (scenario, kind), answers in evaluated.grouped(evaluation.answers).items()
        for what in outcomes.counted(kind, primary)
    ]
    best = [
        _best(scenario, what, of, primary)
        for scenario, of in evaluated.draws(evaluation.answers).items()
        for what in outcomes.successes(primary)
    ]
    return [*rates, *best, *_likelihood(evaluation.likelihoods)]


def _best(scenario: str, what: Counted, of: Mapping[str, Sequence[Answer]], primary: str) -> Figure:
    value = metrics.rate(outcomes.any_of(answers, what.label, primary) for answers in of.values())
    title, group = f"{what.title} ({spoken(scenario)})", outcomes.GROUPS["harmful"]
    return Figure(f"{scenario}/harmful/{what.label}", title, group, what.better, value, value.n)


def _rate(
    scenario: str,
    kind: Kind,
    what: Counted,
    answers: Sequence[Answer],
    primary: str,
    known: Errors | None,
) -> Figure:
    value = metrics.rate(outcomes.flags(answers, what.label, primary))
    title = f"{what.title} ({spoken(scenario)})"
    key = f"{scenario}/{kind}/{what.label}"
    behind = corrected.correct(value, known) if known and kind in known.kinds else None
    return Figure(key, title, outcomes.GROUPS[kind], what.better, value, value.n, behind)


def errors(evaluation: Evaluation, primary: str) -> dict[Label, Errors]:
    """By label, the known errors of the judge whose word it is, in the version that spoke."""
    spoke = evaluation.judges
    pages = {name: corrected.judged(name, evaluation.manifest) for name in ("refusal", primary)}
    known = {name: one for name, page in pages.items() if (one := corrected.errors(page))}
    return {one.label: one for name, one in known.items() if spoke.get(name) == [one.version]}


def spoken(scenario: str) -> str:
    """A scenario in words: ``prefill:k=5`` is "prefill, k = 5", not broken at the sign."""
    return scenario.replace(":", ", ", 1).replace("=", "\u00a0=\u00a0")


def _likelihood(rows: Iterable[Likelihood]) -> list[Figure]:
    said = [row for row in rows if row.tokens]
    parts = {name: [r for r in said if r.kind in kinds] for name, kinds in LIKELIHOODS.items()}
    return [_nll(name, part) for name, part in parts.items() if part]


def _nll(name: str, rows: Sequence[Likelihood]) -> Figure:
    value = metrics.mean_nll([row.nll for row in rows], [row.tokens for row in rows])
    better, title = SURPRISE[name]
    return Figure(f"likelihood/{name}_nll", title, "Likelihood", better, value, len(rows))


def _check_judges(evaluation: Evaluation, primary: str) -> None:
    judges = evaluation.judges
    for needed in dict.fromkeys(("broken", "refusal", primary)):
        if needed not in judges:
            raise UserError(
                f"{evaluation.folder}: verdicts.jsonl holds no verdict of the judge {needed!r} "
                f"(it has: {', '.join(judges) or 'none'}); "
                "add it to evaluate.judges and evaluate again"
            )
