"""Every number by hand or against scipy; coverage and clustering by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from demur import metrics
from demur.errors import UserError
from demur.metrics import Rate


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (1, 200), (120, 450), (1, 1)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (Rate(k, n).low, Rate(k, n).high) == pytest.approx((interval.low, interval.high))


def test_unscored_stay_out_of_the_denominator() -> None:
    rate = metrics.rate([True, None, False, True, None])
    assert rate == Rate(k=2, n=3, unscored=2)
    assert rate.rate == pytest.approx(2 / 3)
    assert str(rate) == "66.7 % [20.8, 93.9] (2/3, 2 unscored)"


def test_nothing_scored_is_not_zero() -> None:
    rate = metrics.rate([None, None])
    assert math.isnan(rate.rate)
    assert (rate.low, rate.high) == (0.0, 1.0)
    assert str(rate) == "- (0 scored, 2 unscored)"


@pytest.mark.parametrize("counts", [(3, 2, 0), (-1, 2, 0), (1, 2, -1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="not counts of a rate"):
        Rate(*counts)


def test_mcnemar_by_hand() -> None:
    """b = 5, c = 1: p = 2 · (C(6,0) + C(6,1)) / 2⁶ = 14/64."""
    a = [True] * 5 + [False] + [True] * 4 + [None, True]
    b = [False] * 5 + [True] + [True] * 4 + [True, None]
    result = metrics.mcnemar(a, b)
    assert (result.b, result.c, result.unscored) == (5, 1, 2)
    assert result.p == pytest.approx(14 / 64)
    assert metrics.mcnemar(b, a).p == pytest.approx(result.p)


def test_mcnemar_without_disagreement() -> None:
    assert metrics.mcnemar([True, False], [True, False]).p == 1.0


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Flags of as many pairs of each kind."""
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


def in_common(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Newcombe's φ: (ad - bc) / √(product of the margins), less n/2 above where it is positive."""
    n, more = both + only_a + only_b + neither, both * neither - only_a * only_b
    margins = (both + only_a, only_b + neither, both + only_b, only_a + neither)
    return (max(more - n / 2, 0) if more > 0 else more) / math.sqrt(math.prod(margins))


@pytest.mark.parametrize(
    "counts",
    [
        (20, 12, 2, 16),  # much in common: 20 · 16 - 12 · 2 = 296, of which 25 are taken off
        (1, 1, 7, 12),  # 5, and half of 21 pairs is more: nothing in common is left
        (3, 9, 8, 2),  # answers that go against each other: 6 - 72, as it is
        (40, 0, 7, 300),  # every answer of a is one of b
    ],
)
def test_newcombe_is_its_formula_with_scipys_limits(counts: tuple[int, int, int, int]) -> None:
    """Method 10 (Statistics in Medicine 17, 2635-2650): δ² = x² - 2φxy + y² on either side."""
    (both, only_a, only_b, _), n, phi = counts, sum(counts), in_common(*counts)
    a, b = (both + only_a) / n, (both + only_b) / n
    of_a, of_b = (stats.binomtest(both + k, n).proportion_ci(method="wilson") for k in counts[1:3])
    sides = (a - of_a.low, of_b.high - b), (of_a.high - a, b - of_b.low)
    low, high = (math.sqrt(x**2 - 2 * phi * x * y + y**2) for x, y in sides)
    found = metrics.newcombe(*table(*counts))
    assert (found.value, found.low, found.high) == pytest.approx((a - b, a - b - low, a - b + high))


def test_newcombe_by_hand_where_nothing_is_in_common() -> None:
    """3 of 3 against 0 of 3: Wilson's limits 0.43850 and 0.56150, so 1 - √2 · 0.56150."""
    found = metrics.newcombe([True] * 3, [False] * 3)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - math.sqrt(2) * 0.5614970, abs=1e-6)


def test_newcombe_turned_round_is_the_same_interval() -> None:
    a, b = table(20, 12, 2, 16)
    one, two = metrics.newcombe(a, b), metrics.newcombe(b, a)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert metrics.newcombe([*a, None, True], [*b, True, None]) == one


def test_newcombe_is_the_bootstrap_for_many_questions() -> None:
    a, b = table(900, 500, 200, 400)
    score, drawn = metrics.newcombe(a, b), metrics.paired_bootstrap(a, b, range(2000), seed=0)
    assert (score.low, score.high) == pytest.approx((drawn.low, drawn.high), abs=0.002)


def test_newcombe_covers_what_it_says() -> None:
    """Of 2,000 small studies the interval holds the true difference in some 95 of 100."""
    rng = np.random.default_rng(5)
    shares = {(True, True): 0.2, (True, False): 0.25, (False, True): 0.05, (False, False): 0.5}
    kinds = list(shares)
    held = 0
    for drawn in rng.choice(4, size=(2000, 30), p=list(shares.values())):
        found = metrics.newcombe(*zip(*(kinds[i] for i in drawn), strict=True))
        held += found.low <= 0.2 <= found.high
    assert 0.94 < held / 2000 < 0.98


def test_pairs_must_match() -> None:
    with pytest.raises(UserError, match="nothing was scored in both"):
        metrics.newcombe([True, None], [None, False])
    with pytest.raises(UserError, match="2 and 1 values cannot be paired"):
        metrics.mcnemar([True, False], [True])
    with pytest.raises(UserError, match="2 values but 1 clusters"):
        metrics.paired_bootstrap([1, 0], [0, 0], ["q"], seed=0)


def test_bootstrap_interval_is_the_normal_one_for_many_independent_questions() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 2000)).tolist()
    result = metrics.paired_bootstrap(a, b, range(2000), seed=1)
    differences = np.subtract(a, b)
    half = 1.96 * differences.std(ddof=1) / math.sqrt(2000)
    assert result.value == pytest.approx(differences.mean())
    assert result.low == pytest.approx(differences.mean() - half, abs=0.001)
    assert result.high == pytest.approx(differences.mean() + half, abs=0.001)


def test_bootstrap_draws_whole_questions() -> None:
    """Asking each of 100 questions nine times over adds no evidence."""
    rng = np.random.default_rng(4)
    a, b = (rng.random((2, 100)) < 0.5).tolist()
    once = metrics.paired_bootstrap(a, b, range(100), seed=1)
    often = metrics.paired_bootstrap(a * 9, b * 9, list(range(100)) * 9, seed=1)
    loose = metrics.paired_bootstrap(a * 9, b * 9, range(900), seed=1)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert loose.high - loose.low < 0.5 * (once.high - once.low)


def test_bootstrap_repeats_with_its_seed_and_skips_unscored_pairs() -> None:
    a, b = [0.9, 0.2, 0.7, 0.4, None], [0.1, 0.3, 0.5, 0.35, 1]
    first = metrics.paired_bootstrap(a, b, "vwxyz", seed=7, samples=1500)
    assert first == metrics.paired_bootstrap(a[:4], b[:4], "vwxy", seed=7, samples=1500)
    assert first != metrics.paired_bootstrap(a, b, "vwxyz", seed=8, samples=50)
    with pytest.raises(UserError, match="nothing was scored"):
        metrics.paired_bootstrap([None], [1], "w", seed=0)


def test_kappa_by_hand() -> None:
    """p_o = 35/50, p_e = (25·30 + 25·20)/50² = 0.5, kappa = (0.7 - 0.5)/0.5."""
    a = ["yes"] * 20 + ["yes"] * 5 + ["no"] * 10 + ["no"] * 15
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert metrics.cohen_kappa(a, b) == pytest.approx(0.4)
    assert metrics.cohen_kappa(a, a) == pytest.approx(1.0)
    assert math.isnan(metrics.cohen_kappa(["no"] * 3, ["no"] * 3))


def test_rogan_gladen_by_hand() -> None:
    """(0.3 + 0.95 - 1) / (0.9 + 0.95 - 1) = 0.25 / 0.85."""
    result = metrics.rogan_gladen(Rate(300, 1000), Rate(90, 100), Rate(95, 100))
    assert result.value == pytest.approx(0.25 / 0.85)
    assert 0 <= result.low < result.value < result.high <= 1


def test_rogan_gladen_widens_with_less_calibration() -> None:
    well = metrics.rogan_gladen(Rate(300, 1000), Rate(900, 1000), Rate(900, 1000))
    badly = metrics.rogan_gladen(Rate(300, 1000), Rate(18, 20), Rate(18, 20))
    assert badly.high - badly.low > 2 * (well.high - well.low)
    unknown = metrics.rogan_gladen(Rate(10, 10), Rate(1, 1), Rate(1, 50))
    assert (unknown.low, unknown.high) == (0.0, 1.0)


@pytest.mark.parametrize(("p", "se", "sp"), [(0.1, 0.9, 0.95), (0.4, 0.8, 0.85), (0.9, 0.95, 0.7)])
def test_rogan_gladen_interval_covers(p: float, se: float, sp: float) -> None:
    """Of 2,000 simulated studies about 95 % hold the truth; a blind interval would hold fewer."""
    rng = np.random.default_rng(5)
    studies = zip(
        rng.binomial(200, p * se + (1 - p) * (1 - sp), 2000).tolist(),
        rng.binomial(60, se, 2000).tolist(),
        rng.binomial(60, sp, 2000).tolist(),
        strict=True,
    )
    counts = [(Rate(x, 200), Rate(s, 60), Rate(t, 60)) for x, s, t in studies]
    found = [metrics.rogan_gladen(*each) for each in counts if metrics.explained(*each)]
    assert 0.935 <= np.mean([e.low <= p <= e.high for e in found]) <= 0.99


def test_rogan_gladen_refuses_a_judge_that_tells_nothing() -> None:
    with pytest.raises(UserError, match=r"0\.50 \+ specificity 0\.50 is not above 1"):
        metrics.rogan_gladen(Rate(1, 10), Rate(5, 10), Rate(5, 10))
    with pytest.raises(UserError, match="calibrate on both classes"):
        metrics.rogan_gladen(Rate(1, 10), Rate(0, 0), Rate(5, 10))


def test_auroc_by_hand_with_a_tie() -> None:
    """True cases 3, 2 against false 2, 1: won 1 + 1 + 1, tied ½, of four pairs."""
    assert metrics.auroc([3, 2, 2, 1], [True, True, False, False]) == pytest.approx(3.5 / 4)
    assert metrics.auroc([1, 1, 1], [True, False, True]) == pytest.approx(0.5)
    assert metrics.auroc([0, 1], [True, False]) == 0.0


def test_auroc_is_mann_whitneys_u() -> None:
    rng = np.random.default_rng(6)
    scores, labels = rng.integers(0, 9, 80), rng.random(80) < 0.4
    u = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    pairs = labels.sum() * (~labels).sum()
    assert metrics.auroc(scores.tolist(), labels.tolist()) == pytest.approx(u / pairs)


@pytest.mark.parametrize("labels", [[], [True], [False, False]])
def test_auroc_needs_both_classes(labels: list[bool]) -> None:
    with pytest.raises(UserError, match="auroc needs both classes"):
        metrics.auroc([0.5] * len(labels), labels)


def test_mean_nll_weighs_tokens_not_answers() -> None:
    result = metrics.mean_nll([2.0, 12.0, 0.0], [2, 4, 0], seed=1)
    assert result.value == pytest.approx(14 / 6)
    assert (result.low, result.high) == pytest.approx((1.0, 3.0))
    with pytest.raises(UserError, match="nothing was scored"):
        metrics.mean_nll([0.0], [0])


def test_distinct_n_by_hand() -> None:
    """Bigrams a-b, b-a, a-b of the first text, a-b of the second: 2 different of 4."""
    assert metrics.distinct_n(["a b a b", "a b", "c"], 2) == pytest.approx(2 / 4)
    assert metrics.distinct_n(["a b a b", "a b", "c"], 1) == pytest.approx(3 / 7)
    assert math.isnan(metrics.distinct_n(["a"], 2))
