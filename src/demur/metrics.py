"""Rates, intervals and paired comparisons, on plain lists. Every interval is a 95 % one.

Doubt stays visible: a flag may be None (the judge could not say), is left out of the
denominator and counted beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from demur.errors import UserError

Z = float(stats.norm.ppf(0.975))
Flag = bool | None
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Rate:
    """``k`` of ``n`` scored; ``unscored`` more could not be scored and are in neither.

    Raises UserError unless 0 ≤ k ≤ n and unscored ≥ 0.
    """

    k: int
    n: int
    unscored: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.k <= self.n or self.unscored < 0:
            raise UserError(f"{self.k} of {self.n}, {self.unscored} unscored: not counts of a rate")

    @property
    def rate(self) -> float:
        """k / n, or nan where nothing was scored."""
        return self.k / self.n if self.n else math.nan

    @property
    def low(self) -> float:
        return self._wilson(-1)

    @property
    def high(self) -> float:
        return self._wilson(+1)

    def _wilson(self, side: int) -> float:
        """Wilson's score interval (1927): the p for which (k/n - p)² = z² p (1 - p) / n."""
        if not self.n:
            return float(side > 0)
        middle, spread = self.k + Z**2 / 2, Z * math.sqrt(self.k * (1 - self.rate) + Z**2 / 4)
        return min(max((middle + side * spread) / (self.n + Z**2), 0.0), 1.0)

    def __str__(self) -> str:
        if not self.n:
            return f"- (0 scored, {self.unscored} unscored)"
        unscored = f", {self.unscored} unscored" if self.unscored else ""
        return (
            f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] "
            f"({self.k}/{self.n}{unscored})"
        )


def rate(flags: Iterable[Flag]) -> Rate:
    """The share of True among the scored flags; None is unscored."""
    counts = Counter(None if flag is None else bool(flag) for flag in flags)
    return Rate(counts[True], counts[True] + counts[False], counts[None])


@dataclass(frozen=True, slots=True)
class McNemar:
    """``b`` questions are true only under a, ``c`` only under b; ``p`` is exact, two-sided."""

    b: int
    c: int
    p: float
    unscored: int = 0


def mcnemar(a: Sequence[Flag], b: Sequence[Flag]) -> McNemar:
    """McNemar's exact test (1947) on paired flags: are b and c two sides of a fair coin?

    Pairs with a None are left out and counted. Raises UserError for unequal lengths.
    """
    counts = Counter(_paired(a, b))
    only_a, only_b = counts[True, False], counts[False, True]
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p), sum(n for pair, n in counts.items() if None in pair))


def newcombe(a: Sequence[Flag], b: Sequence[Flag]) -> Estimate:
    """rate(a) - rate(b) over the pairs scored in both, with Newcombe's paired score interval.

    Method 10 of Newcombe (1998, Statistics in Medicine 17, 2635-2650): the two Wilson intervals
    squared and added, less what the pairs have in common. Raises UserError for unequal lengths,
    or where no pair was scored.
    """
    pairs = [(x, y) for x, y in _paired(a, b) if x is not None and y is not None]
    if not pairs:
        raise UserError("nothing was scored in both: there is no difference to tell")
    one, two = rate(x for x, _ in pairs), rate(y for _, y in pairs)
    phi, difference = _phi(Counter(pairs)), one.rate - two.rate
    below = _added(one.rate - one.low, two.high - two.rate, phi)
    above = _added(one.high - one.rate, two.rate - two.low, phi)
    return Estimate(difference, difference - below, difference + above)


def _phi(counts: Mapping[tuple[Flag, Flag], int]) -> float:
    """The pairs' correlation, a positive one corrected for continuity by half a pair each side."""
    both, neither = counts.get((True, True), 0), counts.get((False, False), 0)
    only_a, only_b = counts.get((True, False), 0), counts.get((False, True), 0)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    more = float(both * neither - only_a * only_b)
    if more > 0:
        more = max(more - (both + neither + only_a + only_b) / 2, 0.0)
    return more / math.sqrt(margins) if margins else 0.0


def _added(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * two + two**2, 0.0))


def paired_bootstrap(
    a: Sequence[float | None],
    b: Sequence[float | None],
    clusters: Sequence[Hashable],
    seed: int,
    samples: int = 10_000,
) -> Estimate:
    """mean(a) - mean(b) over the pairs scored in both, questions drawn with replacement.

    ``clusters`` names each pair's question; all the pairs of a question are drawn together.
    Raises UserError for unequal lengths, or where no pair was scored.
    """
    if len(clusters) != len(a):
        raise UserError(f"{len(a)} values but {len(clusters)} clusters: give one to each value")
    differences: dict[Hashable, list[float]] = {}
    for (x, y), cluster in zip(_paired(a, b), clusters, strict=True):
        if x is not None and y is not None:
            differences.setdefault(cluster, []).append(float(x) - float(y))
    questions = differences.values()
    return _ratio([sum(q) for q in questions], [len(q) for q in questions], seed, samples)


def mean_nll(
    sums: Sequence[float], tokens: Sequence[int], seed: int = 0, samples: int = 10_000
) -> Estimate:
    """Nats per token over all answers, Σ sums / Σ tokens, answers drawn with replacement.

    ``sums[i]`` is answer i's negative log-likelihood over its ``tokens[i]`` tokens; answers of
    no token count for nothing. exp of the three numbers is the perplexity.
    """
    kept = [(total, n) for total, n in _paired(sums, tokens) if n > 0]
    return _ratio([total for total, _ in kept], [n for _, n in kept], seed, samples)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960): (p_o - p_e) / (1 - p_e).

    nan where chance alone agrees always: both raters gave one and the same label throughout.
    """
    pairs = _paired(a, b)
    n = len(pairs)
    left, right = Counter(a), Counter(b)
    expected = sum(left[label] * right[label] for label in left)
    observed = sum(x == y for x, y in pairs)
    return (n * observed - expected) / (n * n - expected) if expected < n * n else math.nan


def rogan_gladen(observed: Rate, sensitivity: Rate, specificity: Rate) -> Estimate:
    """The true rate behind a judge's, corrected for the judge's own errors.

    Value (Rogan & Gladen 1978): (p + Sp - 1) / (Se + Sp - 1). Interval (Lang & Reiczigel 2014,
    Preventive Veterinary Medicine 113): that one's variance after adding a few successes and
    failures, with the sampling error of Se and Sp in it. ``sensitivity`` counts the true cases
    of a calibration set that the judge flagged, ``specificity`` the others that it did not.
    Raises UserError where a count is missing, the judge is no better than chance, or no true rate
    from 0 to 1 would show as the ``observed`` one: put at 0 or 1 it would have an interval the
    narrower, the further off it is.
    """
    if not (observed.n and sensitivity.n and specificity.n):
        raise UserError("a rate with n = 0 cannot be corrected: calibrate on both classes")
    if sensitivity.rate + specificity.rate <= 1:
        raise UserError(
            f"sensitivity {sensitivity.rate:.2f} + specificity {specificity.rate:.2f} is not above "
            "1: this judge tells nothing, take another one"
        )
    if not explained(observed, sensitivity, specificity):
        raise UserError(
            f"{observed.k} of {observed.n} cannot be corrected: with sensitivity "
            f"{sensitivity.rate:.2f} and specificity {specificity.rate:.2f} a judge flags between "
            f"{1 - specificity.rate:.0%} and {sensitivity.rate:.0%}, so it erred otherwise here"
        )
    value = min(max(_true_rate(observed.rate, sensitivity.rate, specificity.rate), 0.0), 1.0)
    low, high = _lang_reiczigel(observed, sensitivity, specificity)
    return Estimate(value, min(max(low, 0.0), value), max(min(high, 1.0), value))


def explained(observed: Rate, sensitivity: Rate, specificity: Rate) -> bool:
    """Whether some true rate would show as the observed one: 1 - Sp <= p <= Se."""
    above = (specificity.n - specificity.k) * observed.n <= observed.k * specificity.n
    return above and observed.k * sensitivity.n <= sensitivity.k * observed.n


def _true_rate(p: float, se: float, sp: float) -> float:
    return (p + sp - 1) / (se + sp - 1)


def _lang_reiczigel(observed: Rate, sensitivity: Rate, specificity: Rate) -> tuple[float, float]:
    (p, var_p), (se, var_se) = _add(observed, Z**2 / 2), _add(sensitivity, 1)
    sp, var_sp = _add(specificity, 1)
    if se + sp <= 1:  # too few calibration cases to know that the judge beats chance
        return 0.0, 1.0
    true = _true_rate(p, se, sp)
    centre = true + 2 * Z**2 * (true * var_se - (1 - true) * var_sp)
    variance = var_p + true**2 * var_se + (1 - true) ** 2 * var_sp
    spread = Z * math.sqrt(variance) / (se + sp - 1)
    return centre - spread, centre + spread


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Probability that a true case scores above a false one, ties counting half.

    Mann and Whitney's U (1947) over the number of pairs. Raises UserError where a class is empty.
    """
    pairs = _paired(scores, labels)
    positive = np.array([label for _, label in pairs], dtype=bool)
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        raise UserError(f"auroc needs both classes: {m} true and {n} false cases were given")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - m * (m + 1) / 2) / (m * n))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams of white-space words (Li et al. 2016); nan without any."""
    words = [text.split() for text in texts]
    grams = [tuple(line[i : i + n]) for line in words for i in range(len(line) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _add(counts: Rate, extra: float) -> tuple[float, float]:
    """A proportion with ``extra`` successes and failures added, and its variance."""
    n = counts.n + 2 * extra
    p = (counts.k + extra) / n
    return p, p * (1 - p) / n


def _paired(a: Sequence[First], b: Sequence[Second]) -> list[tuple[First, Second]]:
    if len(a) != len(b):
        raise UserError(f"{len(a)} and {len(b)} values cannot be paired: give the same questions")
    return list(zip(a, b, strict=True))


def _ratio(tops: Sequence[float], bottoms: Sequence[float], seed: int, samples: int) -> Estimate:
    """Σ tops / Σ bottoms with a percentile interval, whole clusters drawn with replacement."""
    if not bottoms:
        raise UserError("nothing was scored: there is no value to take the mean of")
    pairs = np.array([tops, bottoms], dtype=np.float64).T
    sums = np.concatenate(list(_draws(pairs, np.random.default_rng(seed), samples)))
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975]).tolist()
    return Estimate(float(pairs[:, 0].sum() / pairs[:, 1].sum()), low, high)


def _draws(
    rows: NDArray[np.float64], rng: np.random.Generator, samples: int
) -> Iterator[NDArray[np.float64]]:
    """Column sums of ``samples`` resamples of the rows, a thousand at a time to spare memory."""
    even = np.full(len(rows), 1 / len(rows))
    for done in range(0, samples, 1000):
        yield rng.multinomial(len(rows), even, size=min(1000, samples - done)) @ rows
