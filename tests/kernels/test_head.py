"""The tiled head against the plain one: log-probs, entropy, the likeliest token, gradients, precision, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.head import reference
from minimax_m1.kernels.head import torch as fast

SIZES = [(1, 1), (7, 50), (40, 33), (5, 16_384), (3, 40_000), (600, 20_000)]


def given(rows: int, tokens: int, width: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = torch.randn(rows, width).to(dtype) * 2, torch.randn(tokens, width).to(dtype)
    targets = torch.randint(0, tokens, (rows,))
    targets[::3] = (x @ weight.T).argmax(-1)[::3]
    return x, weight, targets


@pytest.mark.parametrize(("rows", "tokens"), SIZES)
def test_tiles_equal_the_whole(rows: int, tokens: int) -> None:
    x, weight, targets = given(rows, tokens)
    mine, told = (op.logprobs(x, weight, targets) for op in (fast, reference))
    torch.testing.assert_close(mine.logprob, told.logprob, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.entropy, told.entropy, rtol=1e-11, atol=1e-11)
    assert torch.equal(mine.right, told.right) and bool(told.right[0])


@pytest.mark.parametrize(("rows", "tokens"), SIZES)
@pytest.mark.parametrize("small", [False, True])
def test_gradients_equal_the_references(rows: int, tokens: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # tiles of a few rows and tokens, where the sizes above would fit one
        monkeypatch.setattr(fast, "_WIDE", 1000)
        monkeypatch.setattr(fast, "_TILE", 4000)
    x, weight, targets = given(rows, tokens)
    pull, grads = torch.randn(rows, dtype=torch.float64), []
    for op in (reference, fast):
        leaves = [each.clone().requires_grad_() for each in (x, weight)]
        (op.logprobs(leaves[0], leaves[1], targets).logprob * pull).sum().backward()
        grads.append([each.grad for each in leaves])
    for theirs, mine in zip(*grads, strict=True):
        assert theirs is not None and mine is not None
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)


def test_a_frozen_head_or_frozen_states_get_no_gradient() -> None:
    x, weight, targets = given(4, 30)
    for frozen in (0, 1):
        leaves = [each.clone().requires_grad_(n != frozen) for n, each in enumerate((x, weight))]
        scores = fast.logprobs(leaves[0], leaves[1], targets)
        assert not scores.entropy.requires_grad and not scores.right.requires_grad
        scores.logprob.sum().backward()
        assert leaves[frozen].grad is None and leaves[1 - frozen].grad is not None


def test_no_rows_are_fine() -> None:
    x, weight, targets = given(1, 30)
    leaf = weight.requires_grad_()
    scores = fast.logprobs(x[:0], leaf, targets[:0])
    scores.logprob.sum().backward()
    assert all(len(each) == 0 for each in scores) and leaf.grad is not None and not leaf.grad.any()


def test_a_target_that_is_no_token_shows() -> None:
    x, weight, _ = given(2, 30)
    assert fast.logprobs(x, weight, torch.tensor([30, 29])).logprob.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_float32_even_under_autocast(dtype: torch.dtype) -> None:
    x, weight, targets = given(20, 300, 64, dtype)
    exact = reference.logprobs(x.double(), weight.double(), targets)
    for op in (reference, fast):
        leaves = [each.clone().requires_grad_() for each in (x, weight)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = op.logprobs(leaves[0], leaves[1], targets)
            scores.logprob.sum().backward()
        assert scores.logprob.dtype == scores.entropy.dtype == torch.float32
        torch.testing.assert_close(scores.logprob.double(), exact.logprob, rtol=1e-5, atol=1e-5)
        assert [each.grad.dtype for each in leaves if each.grad is not None] == [dtype, dtype]


def test_large_logits_do_not_overflow() -> None:
    x, weight, targets = given(5, 40, dtype=torch.float32)
    scores = fast.logprobs(x * 1e4, weight, targets)
    assert scores.logprob.isfinite().all() and scores.entropy.isfinite().all()


def test_no_tile_is_larger_than_it_may_be(largest: Any) -> None:
    x, weight, targets = given(1200, 20_000, 4, torch.float32)
    with largest as seen:
        fast.logprobs(x.requires_grad_(), weight.requires_grad_(), targets).logprob.sum().backward()
    assert 16_384 * 500 * 4 < seen.bytes <= 32 * 2**20 < 1200 * 20_000 * 4


@pytest.mark.slow
def test_the_published_vocabulary_takes_little_memory() -> None:
    """2,048 rows of 200,064 logits would be 1.6 GB; weight, gradients and two tiles stay below 0.2 GB."""
    x, weight, targets = (
        each.requires_grad_(each.is_floating_point()) for each in given(16, 200_064, 64, torch.float32)
    )
    many = x.detach().repeat(128, 1).requires_grad_()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    scores = fast.logprobs(many, weight, targets.repeat(128))
    scores.logprob.sum().backward()
    assert resident("VmHWM") - before < 250e6
    torch.testing.assert_close(scores.logprob[:16], fast.logprobs(x, weight, targets).logprob)


def resident(field: str) -> int:
    """Bytes of this process by /proc, now (VmRSS) or at most so far (VmHWM)."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
    return int(line.split()[1]) * 1024
