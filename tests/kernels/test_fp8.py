"""Fp8 weights: how they round, what they leave exact, and that views of them are weights too."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.kernels.fp8 import Fp8
from minimax_m1.kernels.moe import reference
from minimax_m1.kernels.scaled import dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 17), (2, 3, 40)])
def test_no_entry_moves_by_more_than_half_its_last_place(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = (torch.randn(*shape) * torch.logspace(-6, 3, shape[-2])[:, None]).to(dtype)
    held = Fp8.of(weight)
    assert held.shape == weight.shape and held.scales.shape == weight.shape[:-1] and len(held) == shape[0]
    exact = weight.double()
    least = held.scales.double()[..., None] * 2**-9  # the step of the smallest numbers
    limit = (exact.abs() * 2**-3).maximum(least) * (0.5 + 1e-5)  # three bits follow the first
    assert ((held.dequantized(torch.float64) - exact).abs() <= limit).all()
    assert (held.values.float().abs().amax(-1) == 448).all()


def test_numbers_of_four_bits_and_zeros_are_kept() -> None:
    weight = torch.tensor([[448.0, -448.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-896.0, 26.0, 1.0, 18.0]])
    held = Fp8.of(weight)
    assert held.scales.tolist() == [1, 1, 2]
    assert held.values.float().tolist() == [[448, -448, 3, 0], [0, 0, 0, 0], [-448, 13, 0.5, 9]]
    assert torch.equal(held.dequantized(torch.bfloat16).float(), weight)


def test_a_part_is_a_view() -> None:
    held = Fp8.of(torch.randn(4, 3, 8))
    for part, index in ((held[2], 2), (held[1:3], slice(1, 3))):
        assert torch.equal(part.dequantized(torch.float32), held.dequantized(torch.float32)[index])
        assert part.values.untyped_storage().data_ptr() == held.values.untyped_storage().data_ptr()


def test_dense_widens_it() -> None:
    held = Fp8.of(torch.randn(2, 3))
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(dense(held, dtype), held.dequantized(dtype)) and dense(held, dtype).dtype == dtype


def test_the_plain_experts_take_it() -> None:
    x, experts, weights = torch.randn(6, 8), torch.randint(0, 3, (6, 1)), torch.rand(6, 1)
    w13, w2 = Fp8.of(torch.randn(3, 10, 8)), Fp8.of(torch.randn(3, 8, 5))
    told = reference.moe(x, experts, weights, w13.dequantized(torch.float32), w2.dequantized(torch.float32))
    assert torch.equal(reference.moe(x, experts, weights, w13, w2), told)
