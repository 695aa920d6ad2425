"""The losses against numbers worked by hand, the transport problem itself, and their own limits.

The toy used throughout has three tokens in the plane, y = token 0:

    e = (1, 0), (0, 2), (-3, 0)        so ê = (1, 0), (0, 1), (-1, 0) and c = (1, 0, -1)
    z = (log 2, 0, 0)                  so P = (1/2, 1/4, 1/4)
    μ = (1/4, 1/4),  c̄ = 1/2 - 1/4 = 1/4
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from demur import losses, supports
from demur.errors import UserError

LOG2 = math.log(2)
PER_POSITION = [term for term in losses.TERMS if term != "npo"]
EMBEDDING_TERMS = ["emd", "emd-bound"]
OFF = {"gate": None, "margin": None}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def plane():
    """The three tokens of the module's docstring."""
    return supports.support(double([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), [], None)


@pytest.fixture
def z():
    return double([[LOG2, 0.0, 0.0]]).requires_grad_()


@pytest.fixture
def y():
    return torch.tensor([0])


def random_support(vocabulary, width=4, seed=0, excluded=()):
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(vocabulary, width, generator=random, dtype=torch.float64)
    return supports.support(rows, excluded, None)


def random_distributions(count, vocabulary, seed):
    random = np.random.default_rng(seed)
    sharp = random.dirichlet(np.full(vocabulary, 0.3), count // 2)
    flat = random.dirichlet(np.full(vocabulary, 3.0), count - count // 2)
    return torch.from_numpy(np.concatenate([sharp, flat]))


def transport(p, q, support):
    """EMD(P, Q; d_c) as the linear programme it is defined by: the cheapest plan moving P to Q."""
    unit = support.embedding * support.inverse_norm[:, None]
    cost, n = 1 - unit @ unit.T, len(p)
    leaving = np.kron(np.eye(n), np.ones(n))
    arriving = np.kron(np.ones(n), np.eye(n))
    plan = linprog(
        cost.flatten().numpy(),
        A_eq=np.concatenate([leaving, arriving]),
        b_eq=torch.cat([p, q]).numpy(),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert plan.success, plan.message
    return plan.fun


def gradient(value, at):
    return torch.autograd.grad(value.sum(), at)[0]


# -- by hand ----------------------------------------------------------------------------------


def test_learn_by_hand(z, y):
    """-log 1/2 = log 2; gradient P - δ_y = (1/2 - 1, 1/4, 1/4)."""
    value = losses.learn(z, y)
    torch.testing.assert_close(value, double([LOG2]))
    torch.testing.assert_close(gradient(value, z), double([[-1 / 2, 1 / 4, 1 / 4]]))


def test_emd_by_hand(z, y, plane):
    """EMD = 1 - c̄ = 3/4, the term its negative.

    Gradient P(w)(c_w - c̄): 1/2 · 3/4, 1/4 · (-1/4), 1/4 · (-5/4).
    """
    value = losses.avoid(z, y, plane, term="emd", **OFF).term
    torch.testing.assert_close(value, double([-3 / 4]))
    torch.testing.assert_close(gradient(value, z), double([[3 / 8, -1 / 16, -5 / 16]]))


def test_emd_bound_by_hand(z, y, plane):
    """μ - ê_y = (-3/4, 1/4), its square 5/8, half of that 5/16.

    h = (-3/4, 1/4, 3/4), h̄ = -3/8 + 1/16 + 3/16 = -1/8; gradient -P(w)(h_w - h̄):
    -1/2 · (-5/8), -1/4 · 3/8, -1/4 · 7/8.
    """
    value = losses.avoid(z, y, plane, term="emd-bound", **OFF).term
    torch.testing.assert_close(value, double([-5 / 16]))
    torch.testing.assert_close(gradient(value, z), double([[5 / 16, -3 / 32, -7 / 32]]))


def test_emd_bound_with_the_papers_constant(z, y, plane):
    """1/(2 · 3²) · 5/8 = 5/144."""
    value = losses.avoid(z, y, plane, term="emd-bound", bound_scale="paper", **OFF).term
    torch.testing.assert_close(value, double([-5 / 144]))


def test_unlikelihood_by_hand(z, y, plane):
    """-log(1 - 1/2) = log 2; gradient P(y) at y, -P(y)P(w)/(1 - P(y)) elsewhere."""
    value = losses.avoid(z, y, plane, term="unlikelihood", **OFF).term
    torch.testing.assert_close(value, double([LOG2]))
    torch.testing.assert_close(gradient(value, z), double([[1 / 2, -1 / 4, -1 / 4]]))


def test_gradient_ascent_by_hand(z, y, plane):
    """log 1/2; gradient δ_y - P."""
    value = losses.avoid(z, y, plane, term="gradient-ascent", **OFF).term
    torch.testing.assert_close(value, double([-LOG2]))
    torch.testing.assert_close(gradient(value, z), double([[1 / 2, -1 / 4, -1 / 4]]))


@pytest.mark.parametrize(
    ("beta", "ratio", "value"),
    [(1.0, 3.0, 4 * LOG2), (2.0, math.sqrt(3), 2 * LOG2), (0.5, 9.0, 8 * LOG2)],
)
def test_npo_by_hand(beta, ratio, value):
    """(π/π_ref)^β = 3 each time, so (2/β) log 4 = (4/β) log 2; gradient 2 · 3/(1 + 3) = 3/2."""
    policy = double([-1.0]).requires_grad_()
    reference = (policy.detach() - math.log(ratio)).requires_grad_()
    loss = losses.npo(policy, reference, beta)
    torch.testing.assert_close(loss, double([value]))
    torch.testing.assert_close(gradient(loss, policy), double([3 / 2]))
    assert not losses.npo(policy.detach(), reference, beta).requires_grad


def test_npo_starts_as_gradient_ascent_and_then_stops():
    """Gradient 2σ(βr): 1 where policy and reference agree, 0 once the policy has let go."""
    policy = double([-5.0, -500.0]).requires_grad_()
    loss = losses.npo(policy, double([-5.0, -5.0]), 0.1)
    torch.testing.assert_close(gradient(loss, policy), double([1.0, 0.0]))


def test_sequence_logprob_sums_each_segment():
    """P = 1/2 three times, 1/4 once: segment 0 has 1/2 · 1/4, segment 1 1/2 · 1/2, 2 nothing."""
    logits = double([[LOG2, 0.0, 0.0]] * 4)
    targets, segments = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    value = losses.sequence_logprob(logits, targets, segments, 3)
    torch.testing.assert_close(value, double([-3 * LOG2, -2 * LOG2, 0.0]))


def test_what_is_watched_by_hand(y, plane):
    """The toy with a fourth, excluded token as likely as the three together.

    Full P = (1/4, 1/8, 1/8, 1/2): P(y) = 1/4, entropy 1/2 log 2 + 1/4 log 4 + 2 · 1/8 log 8 =
    7/4 log 2. P_S is the old P: EMD 3/4, share c̄ - P_S(y) = 1/4 - 1/2.
    """
    rows = torch.cat([plane.embedding, double([[1.0, 1.0]])])
    support = supports.support(rows, [3], None)
    seen = losses.avoid(double([[LOG2, 0.0, 0.0, 2 * LOG2]]), y, support, **OFF)
    torch.testing.assert_close(seen.p_target, double([1 / 4]))
    torch.testing.assert_close(seen.entropy, double([7 / 4 * LOG2]))
    torch.testing.assert_close(seen.emd, double([3 / 4]))
    torch.testing.assert_close(seen.semantic_share, double([-1 / 4]))


# -- against the transport problem -------------------------------------------------------------


def test_one_hot_emd_is_the_transport_problems_answer():
    support, p = random_support(7), random_distributions(60, 7, seed=1)
    y = torch.arange(60) % 7
    exact = losses.emd_one_hot(p, y, support)
    solved = [
        transport(row, torch.eye(7).double()[w], support) for row, w in zip(p, y, strict=True)
    ]
    torch.testing.assert_close(exact, double(solved), rtol=0, atol=1e-9)


def test_bounds_stay_below_the_transport_problems_answer():
    support = random_support(6, width=3)
    p, q = random_distributions(120, 6, seed=2), random_distributions(120, 6, seed=3).flip(0)
    solved = double([transport(a, b, support) for a, b in zip(p, q, strict=True)])
    tight = losses.emd_bound(p, q, support)
    assert (tight <= solved + 1e-12).all()
    torch.testing.assert_close(losses.emd_bound(p, q, support, "paper"), tight / 36)
    assert (tight / solved).max() > 0.5, "a bound this loose says nothing of the constant"


def test_half_is_the_best_constant():
    """Two one-hots: μ's are the rows themselves, so ½‖ê_w - ê_v‖² = d_c = EMD."""
    support, eye = random_support(6), torch.eye(6).double()
    y = torch.tensor([1, 2, 3, 4, 5, 0])
    torch.testing.assert_close(
        losses.emd_bound(eye, eye[y], support), losses.emd_one_hot(eye, y, support)
    )


def test_gap_between_exact_and_bound_is_the_spread_of_p():
    """EMD - ½‖μ - ê_y‖² = ½(1 - ‖μ‖²) for a one-hot Q."""
    support, p = random_support(7), random_distributions(40, 7, seed=4)
    y = torch.arange(40) % 7
    mu = p @ (support.embedding * support.inverse_norm[:, None])
    gap = losses.emd_one_hot(p, y, support) - losses.emd_bound(p, torch.eye(7)[y], support)
    torch.testing.assert_close(gap, (1 - mu.square().sum(-1)) / 2)


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [OFF, {"gate": 0.12, "margin": 1.1}])
@pytest.mark.parametrize("term", PER_POSITION)
def test_gradcheck_of_every_term(term, settings):
    torch.manual_seed(0)
    support = random_support(9, excluded=[4, 8])
    z, y = torch.randn(6, 9, dtype=torch.float64, requires_grad=True), torch.arange(6) % 4
    opened = losses.avoid(z, y, support, term=term, **settings).open
    assert opened.all() if settings is OFF else 0 < opened.sum() < 6
    assert torch.autograd.gradcheck(
        lambda z: losses.avoid(z, y, support, term=term, **settings).term, z
    )


def test_gradcheck_of_the_rest():
    torch.manual_seed(1)
    support = random_support(5)
    z, y = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.arange(4)
    p = z.softmax(-1).detach().requires_grad_()
    q = p.detach().flip(0).requires_grad_()
    policy = double([-3.0, -1.0, -0.2]).requires_grad_()
    segments = torch.tensor([0, 0, 1, 1])
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda z: losses.learn(z, y), z)
    assert gradcheck(lambda z: losses.sequence_logprob(z, y, segments, 2), z)
    assert gradcheck(lambda p: losses.emd_one_hot(p, y, support), p)
    assert gradcheck(lambda p, q: losses.emd_bound(p, q, support), (p, q))
    assert gradcheck(lambda a: losses.npo(a, double([-2.0, -1.0, -3.0]), 0.3), policy)


def test_gradients_are_the_published_formulas():
    """P(c_w - c̄), -P(h_w - h̄), the two halves of unlikelihood, δ_y - P; on random logits."""
    torch.manual_seed(2)
    support = random_support(11, excluded=[3])
    z, y = (
        torch.randn(5, 11, dtype=torch.float64, requires_grad=True),
        torch.tensor([0, 1, 2, 5, 9]),
    )
    unit = support.embedding * support.inverse_norm[:, None]
    full, at_y = z.detach().softmax(-1), torch.eye(11).double()[y]
    p = full * support.allowed / (full * support.allowed).sum(-1, keepdim=True)
    c = unit[y] @ unit.T
    h = (p @ unit - unit[y]) @ unit.T
    py = (full * at_y).sum(-1, keepdim=True)
    expected = {
        "emd": p * (c - (p * c).sum(-1, keepdim=True)),
        "emd-bound": -p * (h - (p * h).sum(-1, keepdim=True)),
        "unlikelihood": py * (at_y - full * (1 - at_y) / (1 - py)),
        "gradient-ascent": at_y - full,
    }
    assert list(expected) == PER_POSITION
    for term, formula in expected.items():
        value = losses.avoid(z, y, support, term=term, **OFF).term
        torch.testing.assert_close(gradient(value, z), formula)


@pytest.mark.parametrize("term", EMBEDDING_TERMS)
def test_excluded_tokens_get_no_gradient_at_all(term):
    torch.manual_seed(3)
    support = random_support(10, excluded=[2, 7])
    z = torch.randn(4, 10, requires_grad=True)
    found = gradient(losses.avoid(z, torch.arange(3, 7), support, term=term, **OFF).term, z)
    assert (found[:, [2, 7]] == 0).all()
    assert (found[:, [0, 1, 3]] != 0).all()


@pytest.mark.parametrize("term", EMBEDDING_TERMS)
def test_mass_on_excluded_tokens_changes_no_embedding_term(term):
    support, y = random_support(10, excluded=[2, 7]), torch.tensor([1])
    z = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    louder = z.clone()
    louder[:, [2, 7]] += 5
    before, after = (losses.avoid(x, y, support, term=term, **OFF) for x in (z, louder))
    torch.testing.assert_close(before.term, after.term)
    assert after.p_target < before.p_target / 2


# -- gate and margin ---------------------------------------------------------------------------


def test_gate_reads_the_full_distribution(y, plane):
    """P(y) = 1/4 with the excluded token, P_S(y) = 1/2: a gate of 0.3 is reached."""
    support = supports.support(torch.cat([plane.embedding, double([[1.0, 1.0]])]), [3], None)
    z = double([[LOG2, 0.0, 0.0, 2 * LOG2]]).requires_grad_()
    for gate, counted in [(0.2, True), (0.3, False), (None, True)]:
        avoided = losses.avoid(z, y, support, gate=gate, margin=None)
        assert avoided.open.item() is counted
        assert gradient(avoided.term, z).any().item() is counted


def test_margin_is_a_hinge_on_the_emd(z, y, plane):
    """EMD = 3/4: open below a margin of 0.8 with the hinge's own gradient, closed at 0.7."""
    hinge = (0.8 - losses.emd_one_hot(z.softmax(-1), y, plane)).clamp(min=0)
    below = losses.avoid(z, y, plane, gate=None, margin=0.8)
    torch.testing.assert_close(gradient(below.term, z), gradient(hinge, z))
    reached = losses.avoid(z, y, plane, gate=None, margin=0.7)
    assert not reached.open.any()
    assert not gradient(reached.term, z).any()


def test_gate_and_margin_are_on_unless_switched_off(plane):
    """Open: P(y) = 1/2, EMD 3/4. P(y) = 1/201.5 is shut out by the gate.

    P = (1/6, 1/6, 2/3) has EMD 1 + 1/2 and is shut out by the margin.
    """
    logits = double([[LOG2, 0.0, 0.0], [0.0, math.log(200), -LOG2], [0.0, 0.0, 2 * LOG2]])
    targets = torch.zeros(3, dtype=torch.long)
    assert losses.avoid(logits, targets, plane).open.tolist() == [True, False, False]
    assert losses.avoid(logits, targets, plane, gate=None).open.tolist() == [True, True, False]
    assert losses.avoid(logits, targets, plane, margin=None).open.tolist() == [True, False, True]


@pytest.mark.parametrize("term", PER_POSITION)
def test_gate_and_margin_leave_open_positions_untouched(term):
    torch.manual_seed(5)
    support, y = random_support(8), torch.arange(8)
    z = (2 * torch.randn(8, 8, dtype=torch.float64)).requires_grad_()
    free = losses.avoid(z, y, support, term=term, **OFF)
    held = losses.avoid(z, y, support, term=term, gate=0.1, margin=1.0)
    assert free.open.all()
    assert torch.equal(held.open, (free.p_target > 0.1) & (free.emd < 1.0))
    assert 0 < held.open.sum() < 8
    assert torch.equal(held.term, free.term * held.open)
    assert torch.equal(gradient(held.term, z), gradient(free.term, z) * held.open[:, None])


def test_only_the_term_has_a_graph(z, y, plane):
    avoided = losses.avoid(z, y, plane)
    assert avoided.term.requires_grad
    watched = ("emd", "p_target", "entropy", "semantic_share", "open")
    assert not any(getattr(avoided, name).requires_grad for name in watched)


@pytest.mark.parametrize("term", PER_POSITION)
def test_a_target_outside_the_support_is_never_counted(term):
    support = random_support(6, excluded=[2])
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(6)).requires_grad_()
    avoided = losses.avoid(z, torch.tensor([2, 3]), support, term=term, **OFF)
    assert avoided.open.tolist() == [False, True]
    assert not gradient(avoided.term, z)[0].any()


# -- degeneration ------------------------------------------------------------------------------


def entropy_after_training(term, **settings):
    """1,000 steps on the free logits of one position whose P(y) is the highest of all."""
    random = torch.Generator().manual_seed(7)
    support = supports.support(torch.randn(76, 16, generator=random), [], None)
    z = torch.randn(1, 76, generator=random).requires_grad_()
    y, step = z.argmax(-1), torch.optim.SGD([z], lr=1.0)
    start = losses.avoid(z, y, support).entropy.item()
    for _ in range(1_000):
        avoided = losses.avoid(z, y, support, term=term, **settings)
        step.zero_grad()
        avoided.term.sum().backward()
        step.step()
    return start, avoided.entropy.item()


@pytest.mark.parametrize(
    ("term", "settings", "collapses"),
    [
        ("emd", OFF, True),
        ("emd-bound", OFF, True),
        ("gradient-ascent", OFF, True),
        ("unlikelihood", OFF, False),
        ("emd", {"gate": 0.01, "margin": None}, False),
        ("emd-bound", {"gate": 0.01, "margin": None}, False),
        ("gradient-ascent", {"gate": 0.01, "margin": None}, False),
        ("emd", {"gate": None, "margin": 1.0}, False),
    ],
)
def test_only_a_gate_or_a_margin_stops_what_cannot_stop_itself(term, settings, collapses):
    start, end = entropy_after_training(term, **settings)
    assert 3.8 < start < 4.0
    assert end < 0.15 if collapses else end > 3.4, f"entropy {start:.2f} -> {end:.2f}"


# -- the edges of the number line --------------------------------------------------------------


@pytest.mark.parametrize("term", PER_POSITION)
def test_zero_rows_and_impossible_tokens_make_no_nan(term):
    """Token 1 is a zero row; tokens 2 and 3 have logits of -inf, 3 being the second target."""
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(9))
    rows[1] = 0
    z = torch.zeros(2, 6)
    z[:, 2:4] = -math.inf
    z.requires_grad_()
    support = supports.support(rows, [], None)
    avoided = losses.avoid(z, torch.tensor([0, 3]), support, term=term, margin=None)
    assert avoided.open.tolist() == [True, False]
    for name in ("term", "emd", "p_target", "entropy", "semantic_share"):
        assert getattr(avoided, name).isfinite().all(), name
    assert gradient(avoided.term, z).isfinite().all()


@pytest.mark.parametrize("term", PER_POSITION)
def test_a_certain_target_stays_finite(term, plane, y):
    """In float32 1 - P(y) is 0 here: -log(1 - P(y)) is still 200 - log 2, its slope 1."""
    z = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    avoided = losses.avoid(z, y, plane, term=term)
    slope = gradient(avoided.term, z)
    assert avoided.p_target.item() == 1
    assert avoided.term.isfinite().all()
    assert slope.isfinite().all()
    if term == "unlikelihood":
        torch.testing.assert_close(avoided.term, torch.tensor([200 - LOG2]))
        torch.testing.assert_close(slope, torch.tensor([[1.0, -0.5, -0.5]]))


def test_unlikelihood_keeps_its_digits_where_the_target_is_unlikely():
    """P(y) = e⁻³⁰ is far below float32's spacing at 1: the value and the slope are P(y) itself."""
    z = torch.tensor([[-30.0, 0.0]], requires_grad=True)
    value = losses.unlikelihood(z, torch.tensor([0]))
    expected = torch.tensor([math.exp(-30)])
    torch.testing.assert_close(value, expected, atol=0, rtol=1e-6)
    torch.testing.assert_close(gradient(value, z)[:, 0], expected, atol=0, rtol=1e-6)


def test_unlikelihood_keeps_its_digits_where_the_target_is_nearly_certain():
    """1 - P(y) is 2e-7, three of float32's spacings below 1: taken from 1 it is off by a tenth."""
    z = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    z[:, 5], y = 19 + torch.arange(4) / 2, torch.full((4,), 5)

    def told(z):
        value = losses.unlikelihood(z.requires_grad_(), y)
        return value.double(), gradient(value, z).double()

    torch.testing.assert_close(told(z.clone()), told(z.double()), atol=0, rtol=1e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("term", PER_POSITION)
def test_half_precision_is_computed_in_float32(term, half, y):
    """On the same rounded inputs, under autocast too, the numbers are float32's own."""
    random = torch.Generator().manual_seed(10)
    rows = torch.randn(9, 64, generator=random).to(half)
    z = torch.randn(1, 9, generator=random).to(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = losses.avoid(z, y, supports.support(rows, [], None), term=term, **OFF).term
    high = losses.avoid(
        z.float(), y, supports.support(rows.float(), [], None), term=term, **OFF
    ).term
    assert low.dtype == torch.float32
    assert torch.equal(low, high)


@pytest.mark.parametrize("term", PER_POSITION)
def test_a_batch_without_targets_costs_nothing_and_has_a_graph(term, plane):
    logits, none = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long)
    avoided = losses.avoid(logits, none, plane, term=term)
    assert avoided.open.shape == (0,)
    assert avoided.term.sum() == 0
    assert gradient(avoided.term, logits).shape == (0, 3)


# -- names -------------------------------------------------------------------------------------


def test_nlcl_is_unlikelihood(z, y, plane):
    alias, name = (losses.avoid(z, y, plane, term=t).term for t in ("nlcl", "unlikelihood"))
    assert torch.equal(alias, name)
    assert [losses.canonical(term) for term in losses.TERMS] == list(losses.TERMS)


@pytest.mark.parametrize(
    ("term", "message"),
    [("edm", "did you mean 'emd'"), ("gradient_ascent", "'gradient-ascent'"), ("npo", "sequence")],
)
def test_a_term_avoid_cannot_compute_is_refused(term, message, z, y, plane):
    with pytest.raises(UserError, match=message):
        losses.avoid(z, y, plane, term=term)


def test_an_unknown_scale_and_a_flat_beta_are_refused(z, y, plane):
    with pytest.raises(UserError, match="tight, paper"):
        losses.avoid(z, y, plane, term="emd-bound", bound_scale="loose")
    with pytest.raises(UserError, match="beta > 0, not 0"):
        losses.npo(double([-1.0]), double([-1.0]), 0)
