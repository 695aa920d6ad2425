"""The same figures for each source, where one kind of request comes from several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from demur import evaluated
from demur.evaluated import Answer, Evaluation
from demur.report import compare, tables, twins
from demur.report.compare import Comparison
from demur.report.words import Table


@dataclass(frozen=True, slots=True)
class Side:
    """Evaluations side by side: every figure, and how each one's compares with the first's."""

    table: Table
    comparisons: Sequence[Mapping[str, Comparison]]


def side_by_side(evaluations: Sequence[Evaluation], primary: str) -> Side:
    """One without answers has no figures."""
    told = [twins.measured(e, primary) if e.answers else [] for e in evaluations]
    first, *others = evaluations
    found = [compare.compare(first, other, primary) for other in others]
    return Side(tables.by_key(told), [{}, *found])


def by_source(evaluations: Sequence[Evaluation], primary: str) -> dict[str, Side]:
    """A benchmark is a number of its own: evaluations by source, as if nothing else was asked."""
    split = [_split(evaluation) for evaluation in evaluations]
    sources = dict.fromkeys(source for of in split for source in of)
    return {
        source: side_by_side(
            [
                replace(evaluation, answers=tuple(of.get(source, ())), likelihoods=())
                for evaluation, of in zip(evaluations, split, strict=True)
            ],
            primary,
        )
        for source in sources
    }


def _split(evaluation: Evaluation) -> dict[str, list[Answer]]:
    """Answers by source, of the scenarios and kinds that have several."""
    found: dict[str, list[Answer]] = {}
    for answers in evaluated.grouped(evaluation.answers).values():
        if len({answer.behavior.source for answer in answers}) > 1:
            for answer in answers:
                found.setdefault(answer.behavior.source, []).append(answer)
    return found
