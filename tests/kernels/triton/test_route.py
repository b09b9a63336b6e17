"""Routing in one launch against route.py: experts, weights, thresholds, ties, what is not a number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.moe import route as plain
from minimax_m1.kernels.moe.triton_route import route


def same(mine: tuple[Tensor, Tensor], told: tuple[Tensor, Tensor]) -> None:
    assert mine[0].dtype is torch.int64 and mine[1].dtype is torch.float32
    assert torch.equal(mine[0], told[0]), "experts"
    torch.testing.assert_close(mine[1], told[1].float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 2), (8, 2), (7, 3), (32, 2), (160, 8), (256, 1)])
def test_experts_and_weights_equal_the_plain_ones(experts: int, top_k: int, device: torch.device) -> None:
    logits = torch.randn(45, experts, device=device) * 3
    same(route(logits, top_k), plain.route(logits.double(), top_k))
    limits = torch.rand(45, device=device)
    limits[::4] = 1
    same(route(logits, top_k, limits), plain.route(logits, top_k, limits))
    same(route(logits, top_k, 0.6), plain.route(logits, top_k, 0.6))
    same(route(logits, top_k, limits[1]), plain.route(logits, top_k, limits[1]))


def test_a_threshold_drops_experts_and_shares_their_weight(device: torch.device) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]], device=device).log()
    experts, weights = route(logits, 3, 0.7)
    assert experts.tolist() == [[0, 1, plain.DROPPED]]
    torch.testing.assert_close(weights, torch.tensor([[0.625, 0.375, 0.0]], device=device))
    even = torch.zeros(1, 4, device=device)  # the first alone reaches a half
    assert route(even, 2, 0.5)[0].tolist() == [[0, plain.DROPPED]]
    assert route(logits, 3, 1e-6)[0].tolist() == [[0, plain.DROPPED, plain.DROPPED]]


def test_of_equals_the_first_is_chosen(device: torch.device) -> None:
    logits = torch.zeros(3, 6, device=device)
    logits[1, 4] = 1
    logits[2] = torch.tensor([-1.0, 2.0, 2.0, 0.0, 2.0, 0.0])
    experts, weights = route(logits, 4)
    assert experts.tolist() == [[0, 1, 2, 3], [4, 0, 1, 2], [1, 2, 4, 3]]
    torch.testing.assert_close(weights[0], torch.full((4,), 0.25, device=device))


def test_far_and_impossible_experts_are_chosen_last_and_once(device: torch.device) -> None:
    logits = torch.tensor([[float("-inf"), 200.0, -200.0, float("-inf")]], device=device)
    experts, weights = route(logits, 4)
    assert experts.tolist() == [[1, 0, 2, 3]]
    assert weights.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter tells of what is meant here
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_what_is_not_a_number_still_goes_to_someone(threshold: float, device: torch.device) -> None:
    logits = torch.randn(4, 6, device=device)
    logits[0], logits[1, 3], logits[2, 3] = float("nan"), float("nan"), float("inf")
    experts, weights = route(logits, 2, threshold)
    assert ((experts[:3] >= 0) & (experts[:3] < 6)).all() and (experts[:3, 0] != experts[:3, 1]).all()
    assert weights[:3].isnan().all()
    same((experts[3:], weights[3:]), plain.route(logits[3:], 2, threshold))


def test_no_tokens_are_fine(device: torch.device) -> None:
    experts, weights = route(torch.randn(0, 8, device=device), 2, torch.ones(0, device=device))
    assert experts.shape == weights.shape == (0, 2)


def test_what_is_not_supported_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"\[3, 257\].*256"):
        route(torch.randn(3, 257, device=device), 2)
    with pytest.raises(ValueError, match=r"bfloat16"):
        route(torch.randn(3, 8, device=device).bfloat16(), 2)
    with pytest.raises(AssertionError, match="gradient"):
        route(torch.randn(3, 8, device=device).requires_grad_(), 2)
