"""The head for GPUs against the plain one in float64: log-probs, entropy, the likeliest token, gradients, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.head import reference
from minimax_m1.kernels.head import triton as fast

SIZES = [(1, 1), (7, 50), (40, 33), (21, 512), (3, 5000)]


def given(
    rows: int, tokens: int, device: torch.device, width: int = 24, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = torch.randn(rows, width).to(dtype) * 0.5, torch.randn(tokens, width).to(dtype)
    targets = torch.randint(0, tokens, (rows,))
    targets[::3] = (x.double() @ weight.double().T).argmax(-1)[::3]
    return x.to(device), weight.to(device), targets.to(device)


def off(mine: Tensor | None, truth: Tensor) -> float:
    """The distance from the truth, in parts of its norm."""
    assert mine is not None
    return float((mine.detach().double() - truth).norm() / truth.norm().clamp(min=1e-30))


def gradients(x: Tensor, weight: Tensor, targets: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """The true gradients of x and weight, in float64."""
    leaves = [each.detach().double().requires_grad_() for each in (x, weight)]
    (reference.logprobs(leaves[0], leaves[1], targets).logprob * pull.double()).sum().backward()
    assert leaves[0].grad is not None and leaves[1].grad is not None
    return leaves[0].grad, leaves[1].grad


def check(x: Tensor, weight: Tensor, targets: Tensor, bound: float) -> None:
    told = reference.logprobs(x.double(), weight.double(), targets)
    pull = torch.randn(len(x), device=x.device)
    truth = gradients(x, weight, targets, pull)
    leaves = [each.detach().requires_grad_() for each in (x, weight)]
    mine = fast.logprobs(leaves[0], leaves[1], targets)
    (mine.logprob * pull).sum().backward()
    torch.testing.assert_close(mine.logprob.double(), told.logprob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.entropy.double(), told.entropy, rtol=1e-5, atol=1e-5)
    assert mine.logprob.dtype is mine.entropy.dtype is torch.float32
    assert torch.equal(mine.right, told.right) and bool(told.right[0]), "right"
    if weight.shape[0] == 1:  # the truth is nothing at all
        assert all(leaf.grad is not None and leaf.grad.abs().max() < 1e-5 for leaf in leaves)
        return
    for name, leaf, true in zip(("x", "weight"), leaves, truth, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype is leaf.dtype
        assert off(leaf.grad, true) < bound, f"the gradient of {name} is off by {off(leaf.grad, true):.1e}"


@pytest.mark.parametrize(("rows", "tokens"), SIZES)
@pytest.mark.parametrize("small", [False, True])
def test_scores_and_gradients_equal_the_plain_ones(
    rows: int, tokens: int, small: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:  # many tiles, and programs of a few rows and tokens
        monkeypatch.setattr(fast, "_WIDE", 1000 if tokens > 1000 else 20)
        monkeypatch.setattr(fast, "_TILE", 2000 if tokens > 1000 else 100)
        monkeypatch.setattr(fast, "_BLOCK", 64)
    check(*given(rows, tokens, device), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "bound"),
    [
        (torch.bfloat16, torch.bfloat16, 2.5e-3),
        (torch.float32, torch.bfloat16, 2.5e-3),
        (torch.bfloat16, torch.float32, 2.5e-3),
        (torch.float16, torch.float16, 4e-4),
    ],
)
def test_narrow_dtypes_lose_nothing_but_the_rounding_of_gradients(
    dtype: torch.dtype, weight_dtype: torch.dtype, bound: float, device: torch.device
) -> None:
    x, weight, targets = given(30, 300, device)
    check(x.to(dtype), weight.to(weight_dtype), (x.to(dtype).double() @ weight.to(weight_dtype).double().T).argmax(-1),
          bound)  # fmt: skip
    check(x.to(dtype), weight.to(weight_dtype), torch.cat([targets[:1], targets.flip(0)[:-1]]), bound)


def test_what_all_tokens_have_in_common_does_not_show_in_a_gradient(device: torch.device) -> None:
    """The gradients of a row's logits sum to nothing, which one bfloat16 part of each would miss by 1e-3."""
    x, weight, targets = (each.to(device) for each in given(30, 300, device, dtype=torch.bfloat16))
    weight = (weight.float() + 30).bfloat16()
    pull = torch.randn(30, device=device)
    truth = gradients(x, weight, targets, pull)[0]
    leaf = x.requires_grad_()
    (fast.logprobs(leaf, weight, targets).logprob * pull).sum().backward()
    assert off(leaf.grad, truth) < 2.5e-3


def test_of_equals_the_first_is_the_likeliest(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 8, device=device), torch.zeros(70, 8, device=device)
    targets = torch.tensor([0, 1, 69], device=device)
    assert fast.logprobs(x, weight, targets).right.tolist() == [True, False, False]
    monkeypatch.setattr(fast, "_BLOCK", 16)
    assert fast.logprobs(x, weight, targets).right.tolist() == [True, False, False]
    monkeypatch.setattr(fast, "_WIDE", 20)
    assert fast.logprobs(x, weight, targets).right.tolist() == [True, False, False]


def test_a_frozen_head_or_frozen_states_get_no_gradient(device: torch.device) -> None:
    x, weight, targets = given(4, 30, device)
    truth = gradients(x, weight, targets, torch.ones(4, device=device))
    for frozen in (0, 1):
        leaves = [each.clone().requires_grad_(n != frozen) for n, each in enumerate((x, weight))]
        scores = fast.logprobs(leaves[0], leaves[1], targets)
        assert not scores.entropy.requires_grad and not scores.right.requires_grad
        scores.logprob.sum().backward()
        assert leaves[frozen].grad is None
        assert off(leaves[1 - frozen].grad, truth[1 - frozen]) < 1e-5


def test_a_second_backward_finds_what_the_first_found(device: torch.device) -> None:
    x, weight, targets = given(4, 30, device)
    leaf = x.requires_grad_()
    total = fast.logprobs(leaf, weight, targets).logprob.sum()
    first, second = (torch.autograd.grad(total, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_rows_are_fine(device: torch.device) -> None:
    x, weight, targets = given(1, 30, device)
    leaf = weight.requires_grad_()
    scores = fast.logprobs(x[:0], leaf, targets[:0])
    scores.logprob.sum().backward()
    assert all(len(each) == 0 for each in scores) and leaf.grad is not None and not leaf.grad.any()


def test_a_target_that_is_no_token_shows(device: torch.device) -> None:
    x, weight, _ = given(3, 30, device)
    targets = torch.tensor([30, 29, -1], device=device)
    assert fast.logprobs(x, weight, targets).logprob.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_float32_even_under_autocast(dtype: torch.dtype, device: torch.device) -> None:
    x, weight, targets = given(20, 90, device, 64, dtype)
    exact = reference.logprobs(x.double(), weight.double(), targets)
    leaves = [each.requires_grad_() for each in (x, weight)]
    with torch.autocast(device.type, torch.bfloat16):
        scores = fast.logprobs(leaves[0], leaves[1], targets)
        scores.logprob.sum().backward()
    torch.testing.assert_close(scores.logprob.double(), exact.logprob, rtol=1e-5, atol=1e-5)
    assert [each.grad.dtype for each in leaves if each.grad is not None] == [dtype, dtype]


def test_large_logits_do_not_overflow_or_cancel(device: torch.device) -> None:
    x, weight, targets = given(5, 40, device)
    scores = fast.logprobs(x * 1e4, weight, targets)
    assert scores.logprob.isfinite().all() and scores.entropy.isfinite().all()
    ones = torch.ones(1, 1, device=device)
    near = (8192 + torch.arange(4.0, device=device))[:, None]  # large numbers, whose difference is no entropy
    told = reference.logprobs(ones.double(), near.double(), targets[:1] % 4)
    torch.testing.assert_close(
        fast.logprobs(ones, near, targets[:1] % 4).entropy.double(), told.entropy, rtol=1e-5, atol=0
    )


def test_no_tile_is_larger_than_it_may_be(device: torch.device, monkeypatch: pytest.MonkeyPatch, largest: Any) -> None:
    monkeypatch.setattr(fast, "_WIDE", 500)
    monkeypatch.setattr(fast, "_TILE", 20_000)
    x, weight, targets = given(90, 1100, device, 4)
    with largest as seen:
        fast.logprobs(x.requires_grad_(), weight.requires_grad_(), targets).logprob.sum().backward()
    assert seen.bytes == 20_000 * 4


def test_what_is_not_supported_is_refused(device: torch.device) -> None:
    x, weight, targets = given(2, 30, device)
    with pytest.raises(ValueError, match=r"\[2, 24\].*float64.*\[30, 24\]"):
        fast.logprobs(x.double(), weight, targets)
