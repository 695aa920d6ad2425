"""The small table of a report on the answers' language, and the same for results.json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from demur import language, measures, outcomes
from demur.evaluated import Evaluation
from demur.language import Language
from demur.metrics import Estimate, Rate
from demur.report import words
from demur.report.tables import level

PARTS = {
    "script": "other language",
    "loop": "loops",
    "glue": "glued",
    "mash": "garbled",
    "empty": "empty",
}
COLUMNS = (*PARTS.values(), "cut off", "distinct-1 / 2 / 3", "words", "perplexity", "KL, nats")


@dataclass(frozen=True, slots=True)
class Spoken:
    """One model's row: its place among the models, and a text for every column."""

    model: int
    cells: tuple[str, ...]


def table(evaluations: Iterable[Evaluation]) -> dict[str, list[Spoken]]:
    """For every scenario and kind of request a row of each model that was asked."""
    rows: dict[str, list[Spoken]] = {}
    for place, evaluation in enumerate(evaluations):
        for (scenario, kind), found in language.measure(evaluation).items():
            title = f"{outcomes.GROUPS[kind]}, {measures.spoken(scenario)}"
            rows.setdefault(title, []).append(Spoken(place, _cells(found)))
    return rows


def _cells(found: Language) -> tuple[str, ...]:
    rates = [*(found.parts[part] for part in PARTS), found.cut]
    distinct = " / ".join("–" if d is None else f"{d:.2f}" for d in found.distinct)
    nats = (found.perplexity, found.kl)
    return (*map(_rate, rates), distinct, f"{found.words:,}", *map(_estimate, nats))


def _rate(rate: Rate) -> str:
    return f"{rate.k} of {rate.n}"


def _estimate(value: Estimate | None) -> str:
    if value is None:
        return "–"
    low, middle, high = map(words.number, (value.low, value.value, value.high))
    return f"{middle} ({low} – {high})"


def plain(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Every number by ``scenario/kind``, as JSON takes it."""
    found = language.measure(evaluation)
    return {f"{scenario}/{kind}": _plain(one) for (scenario, kind), one in found.items()}


def _plain(found: Language) -> dict[str, Any]:
    rates = {part: _counted(rate) for part, rate in (*found.parts.items(), ("cut", found.cut))}
    distinct = {f"distinct_{n}": d for n, d in zip(language.GRAMS, found.distinct, strict=True)}
    nats = {"perplexity": found.perplexity, "kl": found.kl}
    about = {"answers": found.answers, "words": found.words}
    return about | rates | distinct | {key: value and asdict(value) for key, value in nats.items()}


def _counted(rate: Rate) -> dict[str, Any]:
    counts = {"k": rate.k, "n": rate.n, "unscored": rate.unscored}
    return {"rate": level(rate), "low": rate.low, "high": rate.high} | counts
