"""The fused losses against the plain ones, which are their oracle, and against their own limits.

The problem used throughout has zero rows, special tokens and a padded vocabulary, targets inside
and outside the support, and positions that only learn, only avoid, do both, or neither.
"""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks.measure import alone
from demur import (
    fused,
    fused_passes,
    fused_table,
    fused_walk,
    losses,
    objective,
    projection,
    supports,
    terms,
)
from demur.errors import UserError
from demur.supervision import IGNORE

TERMS = [term for term in losses.TERMS if term != "npo"]
OFF = {"gate": None, "margin": None}
HELD = {"gate": 0.02, "margin": 1.05}
HEADS = {
    "bare": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.4},
    "soft-capped": {"softcap": 1.5},
    "all": {"bias": True, "scale": 1.3, "softcap": 2.0},
}


class Problem:
    """Seventeen positions over a vocabulary of 23, four of its tokens outside the support."""

    def __init__(self, dtype=torch.float64, positions=17, vocabulary=23, width=5, seed=0):
        random = torch.Generator().manual_seed(seed)
        weight = torch.randn(vocabulary, width, generator=random, dtype=torch.float64)
        weight[7] = 0
        self.weight = weight.to(dtype)
        self.hidden = torch.randn(positions, width, generator=random, dtype=torch.float64).to(dtype)
        self.bias = torch.randn(vocabulary, generator=random, dtype=torch.float64).to(dtype)
        self.support = supports.support(self.weight, [0, 4], vocabulary - 1)
        few = torch.randint(vocabulary, (max(2, positions // 3),), generator=random)
        self.avoid = few[torch.randint(len(few), (positions,), generator=random)]
        self.avoid[-2] = 4  # outside the support
        self.labels = torch.randint(vocabulary, (positions,), generator=random)
        self.labels[-5:-1] = IGNORE  # avoid only
        self.avoid[: positions // 3] = IGNORE  # learn only
        self.labels[0] = IGNORE  # neither

    def leaves(self, trained=True, bias=False):
        leaves = [self.hidden, self.weight, self.bias if bias else None]
        wanted = [True, trained, trained]
        pairs = zip(leaves, wanted, strict=True)
        return [None if x is None else x.clone().requires_grad_(w) for x, w in pairs]

    def plain(self, hidden, weight, bias=None, scale=1.0, softcap=None, weights=(1, 1), **how):
        """losses.py on the logits, with autograd: loss, learn, and what avoid() says."""
        z = F.linear(hidden, weight, bias) * scale
        z = softcap * torch.tanh(z / softcap) if softcap else z
        learning, away = self.labels != IGNORE, self.avoid != IGNORE
        learn = losses.learn(z[learning], self.labels[learning]).sum()
        seen = losses.avoid(z[away], self.avoid[away], self.support, **how)
        return weights[0] * learn + weights[1] * seen.term.sum(), learn, seen

    def fused(self, hidden, weight, bias=None, weights=(1, 1), **how):
        how |= {"learn_weight": weights[0], "avoid_weight": weights[1]}
        return fused.loss(hidden, weight, self.labels, self.avoid, self.support, bias=bias, **how)


def gradients(loss, leaves):
    return torch.autograd.grad(loss, [x for x in leaves if x is not None and x.requires_grad])


def assert_same(problem, leaves, how, **more):
    """Every number and gradient of both ways agrees."""
    expected, learn, seen = problem.plain(*leaves, **how)
    found = problem.fused(*leaves, **how, **more)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.learn.sum(), learn)
    torch.testing.assert_close(found.avoid, seen.term.sum())
    for name in losses.WATCHED:
        total = getattr(seen, name).to(expected.dtype).sum()
        torch.testing.assert_close(found.watched[name], total)
    torch.testing.assert_close(gradients(found.loss, leaves), gradients(expected, leaves))


# -- the same numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("held", [OFF, HELD])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("term", TERMS)
def test_every_term_is_what_the_plain_losses_say(term, head, held):
    problem, how = Problem(), dict(HEADS[head])
    leaves = problem.leaves(bias=how.pop("bias", False))
    opened = problem.plain(*leaves, **how, **held)[2].open
    assert 0 < opened.sum() < len(opened), "a target is outside the support, others are not"
    assert_same(problem, leaves, how | held | {"term": term, "weights": (0.3, 0.7)})


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("term", TERMS)
def test_chunks_of_any_size_agree(term, chunk):
    problem = Problem()
    assert_same(problem, problem.leaves(), {"term": term}, chunk=chunk)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_blocks_of_any_size_agree(softcap, monkeypatch):
    monkeypatch.setitem(fused_passes.BLOCK, "cpu", 1)  # one row at a time
    problem = Problem()
    assert_same(problem, problem.leaves(), {"term": "emd", "softcap": softcap})


def test_the_papers_bound_keeps_its_scaling():
    problem = Problem()
    assert_same(problem, problem.leaves(), {"term": "emd-bound", "bound_scale": "paper", **OFF})


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("term", TERMS)
def test_gradcheck_of_every_term(term, trained, chunk):
    problem = Problem(positions=9)
    leaves = problem.leaves(trained, bias=True)
    how = {"term": term, "chunk": chunk, "scale": 0.7, "softcap": 3.0, "weights": (0.5, 2.0), **OFF}
    assert torch.autograd.gradcheck(lambda *x: problem.fused(*x, **how).loss, leaves)


def test_the_gradient_is_multiplied_by_what_the_loss_is():
    problem = Problem()
    leaves = problem.leaves()
    once = gradients(problem.fused(*leaves).loss, leaves)
    thrice = gradients(problem.fused(*leaves).loss * 3, leaves)
    torch.testing.assert_close(thrice, tuple(3 * g for g in once))


@pytest.mark.parametrize("outer", [lambda loss: loss, torch.square])
def test_a_second_derivative_is_refused(outer):
    """A constant in its place would be silently wrong."""
    leaves = Problem().leaves()
    loss = outer(Problem().fused(*leaves).loss)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaves[0], create_graph=True)


def test_each_weight_scales_its_own_sum():
    problem = Problem()
    leaves = problem.leaves()
    parts = [problem.fused(*leaves, weights=w) for w in [(1, 0), (0, 1), (2, 3)]]
    learn, avoid, both = (gradients(part.loss, leaves)[0] for part in parts)
    torch.testing.assert_close(parts[0].loss, parts[2].learn.sum())
    torch.testing.assert_close(parts[1].loss, parts[2].avoid)
    torch.testing.assert_close(both, 2 * learn + 3 * avoid)


def test_only_the_loss_has_a_graph():
    problem = Problem()
    found = problem.fused(*problem.leaves())
    assert found.loss.requires_grad
    others = [found.learn, found.avoid, *found.watched.values()]
    assert not any(one.requires_grad for one in others)
    with torch.no_grad():
        silent = problem.fused(*problem.leaves())
    assert not silent.loss.requires_grad
    torch.testing.assert_close(silent.loss, found.loss.detach())


def test_a_padded_batch_costs_what_the_objective_says():
    """The same numbers by the road the trainer takes."""
    problem, target = Problem(), objective.Objective(margin=1.05)
    rows, width = 3, 8
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, 5, generator=random, dtype=torch.float64)
    batch = {k: torch.randint(23, (rows, width), generator=random) for k in ("labels", "avoid")}
    batch["labels"][0], batch["avoid"][1:, 3:] = IGNORE, IGNORE
    batch["row"] = torch.arange(rows)[:, None].repeat(1, width)
    batch["transition"] = torch.tensor([False, True, False])
    plain = terms.sums(hidden, batch, lambda h: h @ problem.weight.T, target, problem.support)
    labels, avoid = batch["labels"][:, 1:], batch["avoid"][:, 1:]
    told = (labels != IGNORE) | (avoid != IGNORE)
    moved = batch["transition"][:, None].expand_as(told)[told]
    found = fused.loss(
        hidden[:, :-1][told],
        problem.weight,
        labels[told],
        avoid[told],
        problem.support,
        gate=target.gate,
        margin=target.margin,
        learn_weight=torch.where(moved, 0.2, 0.5),
        avoid_weight=3.0,
    )
    torch.testing.assert_close(found.learn[~moved].sum(), plain.learn)
    torch.testing.assert_close(found.learn[moved].sum(), plain.transition)
    torch.testing.assert_close(found.avoid, plain.avoid)
    loss = 0.5 * plain.learn + 0.2 * plain.transition + 3 * plain.avoid
    torch.testing.assert_close(found.loss, loss, rtol=1e-7, atol=0)
    for name in losses.WATCHED:
        assert found.watched[name].item() == pytest.approx(plain.counts[name].item())


def test_each_label_has_a_weight_of_its_own():
    problem = Problem()
    leaves, each = problem.leaves(), torch.linspace(0, 2, 17, dtype=torch.float64)
    logits = leaves[0] @ leaves[1].T
    plain = F.cross_entropy(logits, problem.labels, reduction="none")
    found = problem.fused(*leaves, weights=(each, 0))
    torch.testing.assert_close(found.learn, plain)
    expected = (each * plain).sum()
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(gradients(found.loss, leaves), gradients(expected, leaves))


# -- the edges ---------------------------------------------------------------------------------


def test_a_batch_without_targets_costs_nothing_and_has_a_graph():
    problem = Problem()
    problem.labels[:], problem.avoid[:] = IGNORE, IGNORE
    leaves = problem.leaves()
    found = problem.fused(*leaves)
    assert found.loss == found.learn.sum() == found.avoid == 0
    assert not any(g.any() for g in gradients(found.loss, leaves))


@pytest.mark.parametrize("term", TERMS)
def test_no_positions_at_all(term):
    problem = Problem()
    problem.hidden, problem.labels, problem.avoid = (
        x[:0] for x in (problem.hidden, problem.labels, problem.avoid)
    )
    leaves = problem.leaves()
    found = problem.fused(*leaves, term=term)
    assert found.loss == 0
    assert [g.shape for g in gradients(found.loss, leaves)] == [(0, 5), (23, 5)]


@pytest.mark.parametrize("kind", ["learn", "avoid", "both"])
def test_one_position(kind):
    problem = Problem(positions=17)
    at = {"learn": slice(1, 2), "avoid": slice(13, 14), "both": slice(9, 10)}[kind]
    problem.hidden, problem.labels, problem.avoid = (
        x[at] for x in (problem.hidden, problem.labels, problem.avoid)
    )
    assert (problem.labels != IGNORE).item() is (kind != "avoid")
    assert (problem.avoid != IGNORE).item() is (kind != "learn")
    assert_same(problem, problem.leaves(), dict(OFF))


def test_learning_alone_needs_no_support():
    problem = Problem()
    expected = problem.fused(*problem.leaves()).learn.sum()
    problem.support, problem.avoid = None, torch.full_like(problem.avoid, IGNORE)
    torch.testing.assert_close(problem.fused(*problem.leaves()).loss.detach(), expected)


@pytest.mark.parametrize("term", TERMS)
def test_impossible_tokens_make_no_nan(term):
    """A bias of -inf, as some put on a padded vocabulary: inside the support and outside."""
    problem = Problem()
    problem.bias[[2, 22]] = -math.inf
    problem.labels[problem.labels == 2], problem.labels[problem.labels == 22] = 3, 3
    problem.avoid[problem.avoid == 2] = 3
    assert_same(problem, problem.leaves(bias=True), {"term": term, **OFF})


@pytest.mark.parametrize("term", TERMS)
def test_a_certain_target_stays_finite(term):
    """z = (200, 0, 0) in float32, where 1 - P(y) is 0: the slopes are those of the plain losses."""
    support = supports.support(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), [], None)
    hidden, y = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True), torch.tensor([0])
    none = torch.full_like(y, IGNORE)
    found = fused.loss(hidden, torch.eye(3), none, y, support, term=term)
    plain = losses.avoid(hidden, y, support, term=term).term.sum()
    torch.testing.assert_close(found.loss, plain)
    torch.testing.assert_close(gradients(found.loss, [hidden]), gradients(plain, [hidden]))


@pytest.mark.parametrize("term", TERMS)
def test_a_nearly_certain_target_keeps_its_digits(term):
    """1 - P(y) is 1e-7 here: taken from 1 in float32 it would be off by a third."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(6, 30, generator=random)
    y, z[:, 5] = torch.full((6,), 5), 19 + torch.arange(6) / 3
    rows, nothing = torch.randn(30, 8, generator=random), torch.full_like(y, IGNORE)

    def told(dtype):
        hidden, support = (
            z.to(dtype).requires_grad_(),
            supports.support(rows.to(dtype), [1, 2], None),
        )
        how = {"term": term, "kept": fused_walk.Kept(), **OFF}
        found = fused.loss(hidden, torch.eye(30, dtype=dtype), nothing, y, support, **how)
        numbers = (found.loss, *gradients(found.loss, [hidden]), *found.watched.values())
        return [number.double() for number in numbers]

    for low, high in zip(told(torch.float32), told(torch.float64), strict=True):
        torch.testing.assert_close(low, high, rtol=1e-4, atol=0)


@pytest.mark.parametrize("term", ["emd", "emd-bound"])
def test_all_mass_outside_the_support_stays_finite(term):
    """P is 0 in float32 on the whole support, P_S is not."""
    support = supports.support(
        torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]), [3], 4
    )
    hidden, y = torch.tensor([[1.0, 0.0, 0.0, 200.0]], requires_grad=True), torch.tensor([0])
    none = torch.full_like(y, IGNORE)
    found = fused.loss(hidden, torch.eye(4), none, y, support, term=term, **OFF)
    plain = losses.avoid(hidden, y, support, term=term, **OFF).term.sum()
    torch.testing.assert_close(found.loss, plain)
    torch.testing.assert_close(gradients(found.loss, [hidden]), gradients(plain, [hidden]))
    assert found.watched["p_target"] == 0


def test_a_soft_cap_too_wide_to_matter_makes_no_nan():
    """z from -190 to 190: e^z is 0 in float32 on most tokens, and its logarithm is needed."""
    support = supports.support(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), [], None)
    hidden = torch.tensor([[400.0, -400.0, 0.0]] * 2, requires_grad=True)
    labels, avoid = torch.tensor([1, IGNORE]), torch.tensor([IGNORE, 1])
    how = {"term": "gradient-ascent", "softcap": 200.0, **OFF}
    found = fused.loss(hidden, torch.eye(3), labels, avoid, support, **how)
    z = 200 * torch.tanh(hidden / 200)
    plain = F.cross_entropy(z[:1], labels[:1]) - F.cross_entropy(z[1:], avoid[1:])
    torch.testing.assert_close(found.loss, plain)
    torch.testing.assert_close(gradients(found.loss, [hidden]), gradients(plain, [hidden]))


def test_half_weights_do_not_underflow():
    """Weights as small as a large batch makes them, where float16 ends at 6e-8."""
    problem = Problem(torch.float16)
    leaves = problem.leaves()
    small = gradients(problem.fused(*leaves, weights=(1e-6, 1e-6)).loss * 1e6, leaves)
    torch.testing.assert_close(small, gradients(problem.fused(*leaves).loss, leaves))


# -- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["emd", "unlikelihood", "gradient-ascent"])
def test_a_table_changes_nothing(term):
    problem = Problem()
    table = fused_table.table(problem.support, problem.avoid, torch.float64)
    assert len(table.rows) < (problem.avoid != IGNORE).sum(), "one row a distinct token"
    assert_same(problem, problem.leaves(), {"term": term}, kept=fused_walk.Kept(table), chunk=4)


@pytest.mark.parametrize(("dtype", "error"), [(torch.int8, 1 / 254), (torch.bfloat16, 2**-9)])
def test_a_small_table_errs_by_its_rounding(dtype, error):
    problem = Problem()
    table = fused_table.table(problem.support, range(23), dtype)
    unit = problem.support.embedding * problem.support.inverse_norm[:, None]
    assert table.rows.dtype == dtype
    assert (table.rows.double() * table.unit - unit @ unit.T).abs().max() <= error * 1.0001
    leaves = problem.leaves()
    exact, rough = (
        problem.fused(*leaves, **OFF),
        problem.fused(*leaves, **OFF, kept=fused_walk.Kept(table)),
    )
    assert 0 < abs(exact.avoid - rough.avoid) / (problem.avoid != IGNORE).sum() < error


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("known", [1, 2, 4])
def test_targets_missing_in_the_table_are_computed(known, chunk):
    problem = Problem()
    some = sorted({*problem.avoid.tolist()} - {IGNORE})
    table = fused_table.table(problem.support, some[:known], torch.float64)
    assert len(some) > known
    assert_same(problem, problem.leaves(), {}, kept=fused_walk.Kept(table), chunk=chunk)


def test_a_table_takes_no_more_than_the_embedding_and_the_most_frequent_first():
    weight = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    support = supports.support(weight, [0], None)
    tokens = [t for t in range(1, 21) for _ in range(t)]
    outside = [IGNORE, *[0] * 99]
    table = fused_table.affordable(support, outside + tokens)
    held = (table.row_of >= 0).nonzero()[:, 0].tolist()
    assert held == [15, 16, 17, 18, 19, 20]
    assert table.rows.numel() * table.rows.element_size() <= weight.numel() * 2


def test_there_is_no_table_of_nothing_nor_in_double_precision():
    problem = Problem()
    assert fused_table.affordable(problem.support, [3, 3, 5]) is None
    assert fused_table.affordable(Problem(torch.float32).support, [IGNORE]) is None


# -- from step to step ---------------------------------------------------------------------------


def test_steps_share_memory_and_nothing_else():
    """Larger, smaller, of another type, and with another term: each as if it were alone."""
    kept = fused_walk.Kept()
    for size, dtype, term in [
        (17, torch.float64, "emd"),
        (60, torch.float64, "emd-bound"),
        (17, torch.float32, "emd"),
        (30, torch.float64, "emd"),
    ]:
        problem = Problem(dtype, positions=size)
        for _ in range(2):
            assert_same(problem, problem.leaves(), {"term": term}, kept=kept, chunk=20)


def test_a_second_step_writes_where_the_first_did():
    problem, kept = Problem(), fused_walk.Kept()
    head = projection.Head(problem.weight, None, 1.0, None)
    problem.fused(*problem.leaves(), kept=kept)
    where = [kept.rooms.take(name, 1, head).data_ptr() for name in ("logits", "directions")]
    problem.fused(*problem.leaves(), kept=kept)
    assert where == [kept.rooms.take(n, 1, head).data_ptr() for n in ("logits", "directions")]
    assert where[0] != where[1]


# -- positions that are closed -------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("gate", [0.02, 0.05, 0.99])
def test_closed_positions_cost_no_product(term, gate, monkeypatch):
    """Some, most or all of those that only avoid have a gradient of 0, and are left out of it."""
    problem, seen = Problem(positions=60), []
    problem.labels[20:] = IGNORE
    back = projection.back
    monkeypatch.setattr(projection, "back", lambda dz, w: seen.append(len(dz)) or back(dz, w))
    leaves, how = problem.leaves(), {"term": term, "gate": gate, "margin": None}
    assert_same(problem, leaves, how)
    opened = int(problem.plain(*leaves, **how)[2].open.sum())
    assert seen == [20, opened], "the first chunk only learns"


# -- low precision -----------------------------------------------------------------------------


def errors(dtype, term, trained):
    """Relative errors of both ways in ``dtype`` against the plain one in float64.

    All three see the same rounded numbers, so an error is the computation's own.
    """
    low = Problem(dtype, positions=120, vocabulary=600, width=48)
    low.weight *= 0.3
    high = Problem(positions=120, vocabulary=600, width=48)
    high.hidden, high.weight = low.hidden.double(), low.weight.double()
    high.support = supports.support(high.weight, [0, 4], 599)
    low.support = supports.support(low.weight, [0, 4], 599)
    found = []
    for problem, way in [(high, "plain"), (low, "plain"), (low, "fused")]:
        leaves = problem.leaves(trained)
        result = getattr(problem, way)(*leaves, term=term, **OFF)
        loss = result.loss if way == "fused" else result[0]
        found.append([loss, *gradients(loss, leaves)])
    truth, plain, quick = ([x.detach().double() for x in one] for one in found)
    return [
        ((p - t).norm() / t.norm(), (q - t).norm() / t.norm())
        for t, p, q in zip(truth, plain, quick, strict=True)
    ]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_errs_no_more_than_the_plain_way(dtype, term, trained):
    floor = 1e-6  # a few float32 roundings: the plain value can be right by luck
    for plain, quick in errors(dtype, term, trained):
        assert quick <= max(1.5 * plain, floor), f"{quick:.2e} against {plain:.2e}"


def test_logits_are_not_rounded_to_half():
    """Rounding them puts an error on dh that the fused way does not have."""
    plain, quick = errors(torch.bfloat16, "emd", trained=False)[1]
    assert quick < plain / 1.5


def test_autocast_rounds_the_operands_only():
    problem = Problem(torch.float32)
    leaves = problem.leaves()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = problem.fused(*leaves)
    assert found.loss.dtype == torch.float32
    rounded = [x.bfloat16().float() if x is not None else None for x in leaves]
    torch.testing.assert_close(found.loss, problem.fused(*rounded).loss)
    assert [g.dtype for g in gradients(found.loss, leaves)] == [torch.float32] * 2


# -- what it is for ----------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_is_a_fraction_of_the_plain_way():
    """In bytes above the inputs, each way in a process of its own."""
    size = (768, 65536, 64)
    plain, quick = (
        alone("benchmarks.head", f"{way}avoid", *map(str, size)) for way in ("naive ", "")
    )
    assert plain > 3 * 768 * 65536 * 4, "the plain way keeps several N x V"
    assert quick <= 0.3 * plain


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"term": "edm"}, "did you mean 'emd'"),
        ({"term": "npo"}, "one number a sequence"),
        ({"bound_scale": "loose"}, "tight, paper"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_what_cannot_be_computed_is_refused(how, message):
    problem = Problem()
    with pytest.raises(UserError, match=message):
        problem.fused(*problem.leaves(), **how)


@pytest.mark.parametrize("token", [-1, 23])
@pytest.mark.parametrize("name", ["labels", "avoid"])
def test_a_target_that_is_no_token_is_refused(name, token):
    """-1 would be learnt as token 0."""
    problem = Problem()
    getattr(problem, name)[-1] = token
    with pytest.raises(UserError, match=f"{token} is no token: .* 0 to 22, or -100"):
        problem.fused(*problem.leaves())


def test_avoiding_without_a_support_is_refused():
    problem = Problem()
    problem.support = None
    with pytest.raises(UserError, match="no support"):
        problem.fused(*problem.leaves())
