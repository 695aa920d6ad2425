"""The kernels against the passes they stand for: on a GPU where there is one, else interpreted.

Triton decides when it is imported whether it interprets, so without a GPU the checks run in a
process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from demur import fused, fused_passes, fused_table, fused_walk, losses, supports
from demur.supervision import IGNORE
from test_fused import HEADS, HELD, OFF, TERMS, Problem, gradients

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HERE = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
kernels = pytest.mark.skipif(not HERE, reason="interpreted in a process of its own")


@pytest.mark.skipif(HERE, reason="runs in this process")
def test_the_kernels_as_interpreted():
    told = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "failed" not in done.stdout and " passed" in done.stdout, done.stdout


@pytest.fixture
def used(monkeypatch):
    """Sends every float32 chunk to the kernels, and counts their calls."""
    from demur import fused_triton

    calls = []
    for name in ("soften", "tilt"):
        inner = getattr(fused_triton, name)

        def counted(*given, inner=inner, name=name):
            calls.append(name)
            return inner(*given)

        monkeypatch.setattr(fused_triton, name, counted)
    monkeypatch.setattr(fused_passes, "_kernel", lambda z: fused_triton)
    return calls


def moved(problem: Problem) -> Problem:
    for name in ("hidden", "weight", "bias", "labels", "avoid"):
        setattr(problem, name, getattr(problem, name).to(DEVICE))
    problem.support = supports.support(problem.weight, [0, 4], len(problem.weight) - 1)
    return problem


@kernels
@pytest.mark.parametrize("held", [OFF, HELD], ids=["open", "held"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("term", TERMS)
def test_the_numbers_are_those_of_the_plain_losses(used, term, head, held):
    """With -inf where a padded vocabulary has it, and chunks that end in the middle."""
    problem, how = moved(Problem(torch.float32)), dict(HEADS[head])
    problem.bias[22] = -torch.inf
    problem.labels[problem.labels == 22] = 3
    leaves = problem.leaves(bias=how.pop("bias", False))
    how |= held | {"term": term, "weights": (0.3, 0.7)}
    loss, learn, seen = problem.plain(*leaves, **how)
    found = problem.fused(*leaves, **how, chunk=5)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.loss, loss, **close)
    torch.testing.assert_close(found.learn.sum(), learn, **close)
    for name in losses.WATCHED:
        expected = getattr(seen, name).float().sum()
        torch.testing.assert_close(found.watched[name], expected, **close)
    pairs = gradients(found.loss, leaves), gradients(loss, leaves)
    torch.testing.assert_close(*pairs, **close)
    assert {"soften", "tilt"} == set(used)


@kernels
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_a_table_is_read_as_it_lies(used, dtype, monkeypatch):
    problem = moved(Problem(torch.float32))
    kept = fused_walk.Kept(fused_table.table(problem.support, problem.avoid, dtype))
    leaves = problem.leaves()
    found = problem.fused(*leaves, **OFF, kept=kept)
    slopes = gradients(found.loss, leaves)
    monkeypatch.setattr(fused_passes, "_kernel", lambda z: None)
    plain = problem.fused(*leaves, **OFF, kept=kept)
    torch.testing.assert_close(found.loss, plain.loss)
    torch.testing.assert_close(slopes, gradients(plain.loss, leaves), rtol=1e-4, atol=1e-6)
    assert used


@kernels
@pytest.mark.parametrize("vocabulary", [4096, 4097, 9000])
def test_more_columns_than_a_program_takes_at_a_time(used, vocabulary):
    problem = moved(Problem(torch.float32, vocabulary=vocabulary))
    leaves = problem.leaves()
    found, (loss, *_) = problem.fused(*leaves, **OFF), problem.plain(*leaves, **OFF)
    torch.testing.assert_close(found.loss, loss, rtol=1e-4, atol=1e-4)
    pairs = gradients(found.loss, leaves), gradients(loss, leaves)
    torch.testing.assert_close(*pairs, rtol=1e-3, atol=1e-5)


@kernels
@pytest.mark.parametrize("term", TERMS)
def test_a_certain_target_and_no_position_at_all_stay_finite(used, term):
    support = supports.support(
        torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], device=DEVICE), [], None
    )
    y = torch.tensor([0], device=DEVICE)
    hidden = torch.tensor([[200.0, 0.0, 0.0]], device=DEVICE, requires_grad=True)
    none, eye = torch.full_like(y, IGNORE), torch.eye(3, device=DEVICE)
    found = fused.loss(hidden, eye, none, y, support, term=term, **OFF)
    plain = losses.avoid(hidden, y, support, term=term, **OFF).term.sum()
    torch.testing.assert_close(found.loss, plain)
    torch.testing.assert_close(gradients(found.loss, [hidden]), gradients(plain, [hidden]))
    assert fused.loss(hidden[:0], eye, none[:0], y[:0], support, term=term).loss == 0


@kernels
@pytest.mark.parametrize("term", TERMS)
def test_the_kernels_want_no_block_of_rows(used, term, monkeypatch):
    problem = moved(Problem(torch.float32))
    monkeypatch.setattr(fused_passes, "_block", None)
    problem.fused(*problem.leaves(), term=term)
    assert used


@kernels
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU here")
def test_a_gpu_takes_the_kernels_by_itself():
    z = torch.zeros(1, 2, device=DEVICE)
    assert fused_passes._kernel(z) is not None
    assert fused_passes._kernel(z.double()) is None


@kernels
def test_where_no_kernel_can_be_built_there_is_another_way(monkeypatch):
    from demur import fused_triton

    assert fused_triton.works(torch.device(DEVICE))

    def broken(*given):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fused_triton, "soften", broken)
    fused_passes._triton.cache_clear()
    assert fused_passes._triton(torch.device(DEVICE)) is None
    fused_passes._triton.cache_clear()
