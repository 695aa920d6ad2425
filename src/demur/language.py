"""What an evaluation folder tells of the language itself: broken parts, variety, drift.

Everything here is descriptive and needs no judge of harm. The shares are those of the judge
`broken`, part by part; an answer is counted under the first part that was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from demur import evaluated, metrics, records
from demur.evaluated import Answer, Evaluation
from demur.metrics import Estimate, Rate
from demur.records import Kind, Verdict

FILE = "drift.jsonl"
PARTS = ("script", "loop", "glue", "mash", "empty")  # what `broken` tells apart
GRAMS = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One answer as its own model and the starting one see it, summed over ``tokens`` tokens.

    ``nll`` and ``start_nll`` are the answer's negative log-likelihoods under the two, ``kl`` is
    Σ_t KL(p_model(· | context, answer_<t) ‖ p_start(same)); all in nats, the turn end left out.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    completion: str
    tokens: int
    nll: float
    start_nll: float
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The language of one model's answers in one scenario to one kind of request.

    ``parts`` are the shares of answers broken in each way, ``cut`` those that reached the token
    limit, ``distinct`` the distinct-n for n = 1, 2, 3 over ``words`` words (Li et al. 2016;
    None without any n-gram). ``perplexity`` is that of the answers under the starting model,
    ``kl`` the nats per token by which the model has left it; None where not measured.
    """

    answers: int
    words: int
    parts: Mapping[str, Rate]
    cut: Rate
    distinct: tuple[float | None, ...]
    perplexity: Estimate | None
    kl: Estimate | None


def measure(evaluation: Evaluation) -> dict[tuple[str, Kind], Language]:
    """The language of an evaluation's answers by scenario and kind, in the figures' order."""
    path = evaluation.folder / FILE
    drifts = {d.completion: d for d in records.read(path, Drift)} if path.exists() else {}
    groups = evaluated.grouped(evaluation.answers)
    return {group: _language(answers, drifts) for group, answers in groups.items()}


def _language(answers: Sequence[Answer], drifts: Mapping[str, Drift]) -> Language:
    texts = [answer.completion.text for answer in answers]
    scored = [d for a in answers if (d := drifts.get(a.completion.id)) and d.tokens]
    nats = _per_token(scored, [d.start_nll for d in scored])
    return Language(
        answers=len(answers),
        words=sum(len(text.split()) for text in texts),
        parts={part: metrics.rate(_broken(a.verdicts, part) for a in answers) for part in PARTS},
        cut=metrics.rate(a.completion.finish == "length" for a in answers),
        distinct=tuple(_known(metrics.distinct_n(texts, n)) for n in GRAMS),
        perplexity=nats and Estimate(*map(math.exp, (nats.value, nats.low, nats.high))),
        kl=_per_token(scored, [d.kl for d in scored]),
    )


def _broken(verdicts: Iterable[Verdict], part: str) -> bool | None:
    said = next((v for v in verdicts if v.judge == "broken" and v.label != "unscored"), None)
    return None if said is None else said.detail.get("sort") == part


def _per_token(drifts: Sequence[Drift], sums: Sequence[float]) -> Estimate | None:
    return metrics.mean_nll(sums, [d.tokens for d in drifts]) if drifts else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
