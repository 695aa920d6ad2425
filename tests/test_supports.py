"""Which tokens may carry mass, and what their directions are like."""

import math

import pytest
import torch

from demur import supports
from demur.errors import UserError


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_support_leaves_out_special_padding_and_zero_rows():
    rows = torch.ones(6, 2)
    rows[1] = 0
    support = supports.support(rows, [3], 5)
    assert support.allowed.tolist() == [True, False, True, False, True, False]
    torch.testing.assert_close(support.inverse_norm, support.allowed / math.sqrt(2))
    assert not support.centred


def test_centred_rows_have_no_common_direction():
    """Allowed rows (3, 0), (5, 0), (4, 3) have mean (4, 1); the excluded row has no say in it."""
    rows = double([[3.0, 0.0], [5.0, 0.0], [4.0, 3.0], [9.0, 9.0]])
    support = supports.support(rows, [3], None, centre=True)
    expected = double([[-1.0, -1.0], [1.0, -1.0], [0.0, 2.0], [5.0, 8.0]])
    torch.testing.assert_close(support.embedding, expected)
    torch.testing.assert_close(support.inverse_norm, double([0.5**0.5, 0.5**0.5, 0.5, 0.0]))
    assert support.centred


def test_a_row_that_is_the_mean_has_no_direction():
    support = supports.support(double([[1.0, 1.0], [3.0, 1.0], [2.0, 1.0]]), [], None, centre=True)
    assert support.allowed.tolist() == [True, True, False]


def test_the_snapshot_does_not_move_with_the_weights():
    weight = torch.nn.Parameter(torch.eye(3))
    support = supports.support(weight, [], None)
    detached = supports.support(weight.detach(), [], None)
    with torch.no_grad():
        weight.mul_(-1)
    for taken in (support, detached):
        torch.testing.assert_close(taken.embedding, torch.eye(3))
        assert not taken.embedding.requires_grad


def test_a_frozen_weight_is_shared():
    weight = torch.nn.Parameter(torch.eye(3), requires_grad=False)
    assert supports.support(weight, [], None).embedding.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(
    ("rows", "excluded", "vocabulary"),
    [(torch.ones(3, 2), [0, 1, 2], None), (torch.zeros(3, 2), [], None), (torch.ones(3, 2), [], 1)],
)
def test_an_empty_support_is_refused(rows, excluded, vocabulary):
    with pytest.raises(UserError, match="exclude fewer ids"):
        supports.support(rows, excluded, vocabulary)


@pytest.mark.parametrize("excluded", [[-1], [0, 3]])
def test_an_id_without_a_row_is_refused(excluded):
    with pytest.raises(UserError, match="rows from 0 to 2"):
        supports.support(torch.eye(3), excluded, None)


def test_cosine_statistics_of_two_directions():
    """Two tokens at 60° (and a third, excluded): every pair of different tokens has cosine ½."""
    rows = double([[2.0, 0.0], [-1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    found = supports.cosine_statistics(supports.support(rows, [1], None), pairs=50)
    assert found.pop("std") == pytest.approx(0, abs=1e-12)
    assert set(found) == {"mean", "q01", "q05", "q50", "q95", "q99"}
    assert list(found.values()) == pytest.approx([0.5] * 6)


def test_cosine_statistics_follow_the_seed_and_centring():
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(8)) + 1.0
    raw, centred = supports.support(rows, [], None), supports.support(rows, [], None, centre=True)
    first, again, other = (supports.cosine_statistics(raw, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first["mean"] > 0.4
    assert abs(supports.cosine_statistics(centred)["mean"]) < 0.02
