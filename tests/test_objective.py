"""The formula: each sum against the oracle on the whole batch, and what it is divided by."""

from __future__ import annotations

import math

import pytest
import torch

from demur import losses, objective, pages, supervision, supports, terms
from demur.errors import UserError
from demur.heads import Head
from demur.objective import Objective
from demur.settings import page_settings
from demur.supervision import IGNORE, Row

VOCABULARY, WIDTH = 13, 8


def row(kind: str, *positions: tuple[int, int, int]) -> Row:
    """A row of (token, label, avoid) positions; 0 is nothing to do."""
    tell = Row(kind)
    for token, learn, avoid in positions:
        tell = tell.tell([token], [learn or IGNORE], [avoid or IGNORE])
    return tell


ROWS = [
    row("learn", (1, 0, 0), (2, 2, 0), (3, 3, 0)),
    row("avoid", (1, 0, 0), (4, 0, 4), (5, 0, 5), (6, 0, 0)),
    row("transition", (1, 0, 0), (7, 9, 7), (8, 0, 8), (9, 9, 0)),
    Row("blank").tell([0, 0]),
]


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return supervision.collate(ROWS, 0)


@pytest.fixture
def hidden() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def weight() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def head(weight: torch.Tensor):
    return lambda hidden: hidden @ weight.T


def logits_before(hidden: torch.Tensor, weight: torch.Tensor, *places: tuple[int, int]):
    """The logits that predict the tokens at (row, position)."""
    return torch.stack([hidden[r, t - 1] @ weight.T for r, t in places])


LEARNT, MOVED = [(0, 1), (0, 2)], [(2, 1), (2, 3)]
AWAY, AWAY_TOKENS = [(1, 1), (1, 2), (2, 1), (2, 2)], torch.tensor([4, 5, 7, 8])


@pytest.mark.parametrize("term", ["emd", "emd-bound", "unlikelihood", "nlcl", "gradient-ascent"])
def test_each_sum_is_the_oracles_over_its_own_positions(batch, hidden, weight, term):
    settings = Objective(term=term, gate=None, margin=None)
    support = supports.support(weight, {0}, None)
    found = terms.sums(hidden, batch, head(weight), settings, support)
    learn = losses.learn(logits_before(hidden, weight, *LEARNT), torch.tensor([2, 3]))
    moved = losses.learn(logits_before(hidden, weight, *MOVED), torch.tensor([9, 9]))
    away = losses.avoid(
        logits_before(hidden, weight, *AWAY),
        AWAY_TOKENS,
        support,
        term=losses.canonical(term),
        gate=None,
        margin=None,
    )
    assert found.learn.item() == pytest.approx(learn.sum().item())
    assert found.transition.item() == pytest.approx(moved.sum().item())
    assert found.avoid.item() == pytest.approx(away.term.sum().item())
    counted = {name: value.item() for name, value in found.counts.items()}
    assert counted.pop("emd") == pytest.approx(away.emd.sum().item())
    assert counted.pop("p_target") == pytest.approx(away.p_target.sum().item())
    assert counted.pop("entropy") == pytest.approx(away.entropy.sum().item())
    assert counted.pop("semantic_share") == pytest.approx(away.semantic_share.sum().item())
    assert counted == {
        "learn": found.learn.item(),
        "learn_n": 2,
        "transition": found.transition.item(),
        "transition_n": 2,
        "avoid": found.avoid.item(),
        "avoid_n": 4,
        "watched_n": 4,
        "open": 4,
    }


def test_gradients_reach_hidden_states_and_head_and_no_position_without_a_target(
    batch, hidden, weight
):
    settings = Objective(gate=None, margin=None)
    support = supports.support(weight, {0}, None)
    found = terms.sums(hidden, batch, head(weight), settings, support)
    (found.learn + found.transition + found.avoid).backward()
    told = {(r, t - 1) for r, t in LEARNT + MOVED + AWAY}
    moved = {(r, t) for r in range(4) for t in range(4) if hidden.grad[r, t].any()}
    assert moved == told
    assert weight.grad.any()


def test_the_settings_reach_the_oracle(batch, hidden, weight):
    support = supports.support(weight, {0}, None)
    logits = logits_before(hidden, weight, *AWAY)
    for settings in (
        Objective(term="emd", gate=0.1, margin=None),
        Objective(term="emd", gate=None, margin=0.9),
        Objective(term="emd-bound", gate=None, margin=None, bound_scale="paper"),
    ):
        options = settings.model_dump(include={"term", "gate", "margin", "bound_scale"})
        expected = losses.avoid(logits, AWAY_TOKENS, support, **options)
        found = terms.sums(hidden, batch, head(weight), settings, support)
        assert found.avoid.item() == pytest.approx(expected.term.sum().item())
        assert found.counts["open"].item() == expected.open.sum().item()


def test_npo_is_one_term_a_sequence(batch, hidden, weight):
    settings = Objective(term="npo", beta=0.5)
    support = supports.support(weight, {0}, None)
    policy = terms.avoided_logprob(hidden, batch, head(weight))
    cost = losses.learn(logits_before(hidden, weight, *AWAY), AWAY_TOKENS).tolist()
    assert policy.tolist() == pytest.approx([0, -sum(cost[:2]), -sum(cost[2:]), 0])
    batch["reference"] = policy.detach()
    at_start = terms.sums(hidden, batch, head(weight), settings, support)
    assert at_start.avoid.item() == pytest.approx(2 * 2 / 0.5 * math.log(2))
    assert terms.count(batch, settings) == (2, 2, 2)
    batch["reference"] = policy.detach() - torch.tensor([0.0, 1.0, 2.0, 0.0])
    later = terms.sums(hidden, batch, head(weight), settings, support)
    expected = sum(2 / 0.5 * math.log(1 + math.exp(0.5 * ratio)) for ratio in (1, 2))
    assert later.avoid.item() == pytest.approx(expected)


@pytest.mark.parametrize("kept", [[0], [1], [3], [0, 3]])
def test_a_pass_without_a_kind_costs_nothing_and_keeps_its_graph(hidden, weight, kept):
    batch = supervision.collate([ROWS[i] for i in kept], 0)
    length = batch["input_ids"].shape[1]
    support = supports.support(weight, {0}, None)
    found = terms.sums(hidden[kept, :length], batch, head(weight), Objective(), support)
    for term in (found.learn, found.transition, found.avoid):
        term.backward(retain_graph=True)
    assert torch.isfinite(hidden.grad).all()
    assert bool(found.learn) == (0 in kept)
    assert bool(found.avoid) == (1 in kept)
    assert not found.transition


def test_without_a_support_nothing_is_avoided(batch, hidden, weight):
    found = terms.sums(hidden, batch, head(weight), Objective(lambda_=0.0), None)
    assert not found.avoid
    assert "avoid_n" not in found.counts


def test_counts_are_those_of_the_sums(batch):
    assert terms.count(batch, Objective()) == (2, 2, 4)


def test_each_mean_has_its_own_count():
    together = objective.weights((6, 2, 5), Objective(transition_weight=3.0))
    assert together == pytest.approx([1 / 8, 3 / 8, 1 / 5])
    apart = objective.weights((6, 2, 5), Objective(transition_weight=3.0, transition_mean="apart"))
    assert apart == pytest.approx([1 / 6, 3 / 2, 1 / 5])


def test_a_term_that_is_not_there_divides_by_nothing():
    assert objective.weights((0, 0, 0), Objective()) == [1.0, 1.0, 1.0]


def test_what_is_logged_is_the_mean_over_the_components_own_terms():
    totals = dict.fromkeys(terms.SUMMED, 0.0)
    totals |= {"learn": 6.0, "learn_n": 3.0, "avoid": -2.0, "avoid_n": 2.0}
    totals |= {"watched_n": 4.0, "emd": 1.0, "open": 3.0}
    assert terms.watch(totals) == {
        "learn": 2.0,
        "avoid": -1.0,
        "emd": 0.25,
        "p_target": 0.0,
        "entropy": 0.0,
        "semantic_share": 0.0,
        "open": 0.75,
    }


@pytest.mark.parametrize("recipe", ["ta_sft", "derta", "unlikelihood", "npo"])
def test_a_negative_weight_is_refused(recipe):
    with pytest.raises(UserError, match=r"^train.lambda=-1: .*0 or more"):
        page_settings(pages.find("recipes", recipe), {"lambda": -1}, "train")


def test_of_takes_what_a_recipe_shares_and_fixes_the_rest():
    found = objective.of(objective.Weighted(lambda_="auto"), term="npo")
    expected = Objective(lambda_="auto", term="npo", gate=None, margin=None)  # it has no brakes
    assert found.model_dump() == expected.model_dump()


class Wrapped(torch.nn.Module):
    """What an adapter on the head looks like: the same logits, and no matrix to take."""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden)


@pytest.mark.parametrize("term", ["emd", "emd-bound", "unlikelihood", "gradient-ascent"])
def test_hidden_states_and_logits_give_the_same_weighted_loss(batch, hidden, weight, term):
    """The road that training takes and the one it falls back to, gradients and log included."""
    linear = torch.nn.Linear(WIDTH, VOCABULARY, bias=True, dtype=torch.float64)
    linear.weight.data.copy_(weight)
    support, settings = supports.support(weight, {0}, None), Objective(term=term, margin=1.05)
    found = []
    for module in (linear, Wrapped(linear)):
        head = Head(module, scale=0.7, softcap=9.0)
        why = f"the output layer is no torch.nn.Linear but {__name__}.Wrapped"
        assert head.obstacle == (None if module is linear else why)
        loss, counts = terms.weighted(hidden, batch, head, settings, support, (0.5, 0.2, 3.0))
        gradients = torch.autograd.grad(loss, [hidden, linear.weight, linear.bias])
        found.append(([loss, *gradients], {k: float(v) for k, v in counts.items()}))
    (fused, told), (plain, logged) = found
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert told == pytest.approx(logged)


def test_a_pass_that_is_told_nothing_costs_nothing_and_has_a_graph(hidden, weight):
    linear = torch.nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=torch.float64)
    blank = supervision.collate([Row("blank").tell([0] * 4)] * 4, 0)
    head = Head(linear, 1.0, None)
    loss, _ = terms.weighted(hidden, blank, head, Objective(), None, (1.0, 1.0, 1.0))
    loss.backward()
    assert loss == 0
