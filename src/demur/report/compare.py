"""Two models on the same questions: is a difference more than chance?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from demur import evaluated, measures, metrics, outcomes
from demur.evaluated import Answer, Evaluation
from demur.metrics import Estimate, Flag, McNemar
from demur.outcomes import Better
from demur.records import Kind, Label
from demur.report import twins

CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure after minus the same before, over the ``n`` answers that count in both.

    ``difference`` is of rates, or of nats per token. ``mcnemar``, for rates alone, has the flips:
    ``b`` were true only before, ``c`` only after.
    """

    difference: Estimate
    n: int
    mcnemar: McNemar | None = None

    @property
    def clear(self) -> bool:
        """Whether chance would rarely do this: 0 is outside the interval, and McNemar agrees."""
        apart = self.difference.low > 0 or self.difference.high < 0
        return apart and (self.mcnemar is None or self.mcnemar.p < CHANCE)

    def sense(self, better: Better) -> Literal["better", "worse", "within chance"]:
        """What the difference means where ``better`` is the way a figure should go."""
        if not self.clear:
            return "within chance"
        return "better" if (self.difference.value < 0) == (better == "lower") else "worse"


def compare(before: Evaluation, after: Evaluation, primary: str) -> dict[str, Comparison]:
    """Each figure's key → how the two differ, on what both were asked and scored in both."""
    rates = _rates(before, after, primary) | _bests(before, after, primary)
    return rates | _twins(before, after) | _likelihoods(before, after)


def shared(before: Evaluation, after: Evaluation) -> tuple[int, int]:
    """How many attempts both models were given, and how many either was."""
    one, two = ({a.completion.attempt for a in e.answers} for e in (before, after))
    return len(one & two), len(one | two)


def unpaired(before: Evaluation, after: Evaluation) -> tuple[int, int]:
    """How many answers of each have no counterpart in the other, and so are in no difference."""
    one, two = evaluated.grouped(before.answers), evaluated.grouped(after.answers)
    both = sum(len(_pairs(answers, two.get(group, []))) for group, answers in one.items())
    return len(before.answers) - both, len(after.answers) - both


def _rates(before: Evaluation, after: Evaluation, primary: str) -> dict[str, Comparison]:
    others = evaluated.grouped(after.answers)
    found: dict[str, Comparison] = {}
    for (scenario, kind), answers in evaluated.grouped(before.answers).items():
        pairs = _pairs(answers, others.get((scenario, kind), []))
        for what in outcomes.counted(kind, primary):
            if both := _rate(pairs, what.label, primary):
                found[f"{scenario}/{kind}/{what.label}"] = both
    return found


def _bests(before: Evaluation, after: Evaluation, primary: str) -> dict[str, Comparison]:
    """Of draws a behavior is one pair: whether any of its answers came out so, in each."""
    others, found = evaluated.draws(after.answers), dict[str, Comparison]()
    for scenario, mine in evaluated.draws(before.answers).items():
        theirs = others.get(scenario, {})
        asked = [id for id in mine if id in theirs]
        for what in outcomes.successes(primary):
            one, two = (
                [outcomes.any_of(of[id], what.label, primary) for id in asked]
                for of in (mine, theirs)
            )
            if both := _flips(one, two):
                found[f"{scenario}/harmful/{what.label}"] = both
    return found


def _twins(before: Evaluation, after: Evaluation) -> dict[str, Comparison]:
    """Of pairs of twins a behavior is one, and a pair goes by its look-alike."""
    others, found = twins.flags(after), dict[str, Comparison]()
    for key, mine in twins.flags(before).items():
        theirs = others.get(key, {})
        asked = [id for id in mine if id in theirs]
        if both := _flips([mine[id] for id in asked], [theirs[id] for id in asked]):
            found[key] = both
    return found


def _flips(before: list[Flag], after: list[Flag]) -> Comparison | None:
    """None where no pair was scored."""
    test = metrics.mcnemar(before, after)
    if not (n := len(before) - test.unscored):
        return None
    return Comparison(metrics.newcombe(after, before), n, test)


def _pairs(one: Sequence[Answer], two: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Answers to the same attempt, then the rest by behavior: an attack may word each model's."""
    first, second = _in_turn(one, "attempt"), _in_turn(two, "attempt")
    same = first.keys() & second.keys()
    mine, theirs = (
        _in_turn([answer for id, answer in of.items() if id not in same], "behavior")
        for of in (first, second)
    )
    return [
        *((answer, second[id]) for id, answer in first.items() if id in same),
        *((answer, theirs[id]) for id, answer in mine.items() if id in theirs),
    ]


def _in_turn(answers: Sequence[Answer], key: str) -> dict[Hashable, Answer]:
    """Answers by an id of theirs; several of the same one are told apart by their order."""
    found: dict[Hashable, Answer] = {}
    for answer in answers:
        turn, id = 0, getattr(answer.completion, key)
        while (id, turn) in found:
            turn += 1
        found[id, turn] = answer
    return found


def _rate(pairs: Sequence[tuple[Answer, Answer]], label: Label, primary: str) -> Comparison | None:
    """None where no pair was scored."""
    before, after = (
        outcomes.flags((pair[side] for pair in pairs), label, primary) for side in (0, 1)
    )
    test = metrics.mcnemar(before, after)
    if not (n := len(pairs) - test.unscored):
        return None
    asked = [one.completion.behavior for one, _ in pairs]
    return Comparison(_difference(after, before, asked), n, test)


def _difference(after: list[Flag], before: list[Flag], asked: Sequence[str]) -> Estimate:
    """Newcombe's interval, or where a behavior was asked in several ways, whole ones resampled."""
    if len(set(asked)) == len(asked):
        return metrics.newcombe(after, before)
    return metrics.paired_bootstrap(after, before, asked, seed=0)


def _likelihoods(before: Evaluation, after: Evaluation) -> dict[str, Comparison]:
    found: dict[str, Comparison] = {}
    for name, kinds in measures.LIKELIHOODS.items():
        one, two = _nats(before, kinds), _nats(after, kinds)
        if both := [id for id in one if id in two]:
            pair = [two[i] for i in both], [one[i] for i in both]
            nats = metrics.paired_bootstrap(*pair, both, seed=0)
            found[f"likelihood/{name}_nll"] = Comparison(nats, len(both))
    return found


def _nats(evaluation: Evaluation, kinds: tuple[Kind, ...]) -> Mapping[Hashable, float]:
    """Nats a token by answer scored: another text, or one cut into other tokens, is another."""
    texts = {a.behavior.id: a.behavior.unsafe or a.behavior.answer for a in evaluation.answers}
    return {
        (row.behavior, texts.get(row.behavior), row.tokens): row.nll / row.tokens
        for row in evaluation.likelihoods
        if row.kind in kinds and row.tokens
    }
