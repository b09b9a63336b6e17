"""Int8 weights: how they round, what they leave exact, and that views of them are weights too."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.kernels.quantized import Int8, dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 17), (2, 3, 40)])
def test_no_entry_moves_by_more_than_half_a_step_of_its_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = (torch.randn(*shape) * torch.logspace(-6, 3, shape[-2])[:, None]).to(dtype)
    held = Int8.of(weight)
    assert held.shape == weight.shape and held.scales.shape == weight.shape[:-1] and len(held) == shape[0]
    step = weight.double().abs().amax(-1, keepdim=True) / 127
    assert ((held.dequantized(torch.float64) - weight.double()).abs() <= step * (0.5 + 1e-5)).all()
    assert (held.values.abs().amax(-1) == 127).all()


def test_whole_numbers_and_zeros_are_kept() -> None:
    weight = torch.tensor([[127.0, -127.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 2.0, 1.0, 3.0]])
    held = Int8.of(weight)
    assert held.scales.tolist() == [1, 1, 2]
    assert held.values.tolist() == [[127, -127, 3, 0], [0, 0, 0, 0], [-127, 1, 0, 2]]  # ties go to the even number
    assert torch.equal(held.dequantized(torch.bfloat16)[0].float(), weight[0])


def test_a_part_is_a_view() -> None:
    held = Int8.of(torch.randn(4, 3, 8))
    for part, index in ((held[2], 2), (held[1:3], slice(1, 3))):
        assert torch.equal(part.dequantized(torch.float32), held.dequantized(torch.float32)[index])
        assert part.values.untyped_storage().data_ptr() == held.values.untyped_storage().data_ptr()


def test_dense_widens_and_never_narrows() -> None:
    weight = torch.randn(2, 3)
    assert dense(weight, torch.float32) is weight and dense(weight, torch.bfloat16) is weight
    assert dense(weight.bfloat16(), torch.float32).dtype == torch.float32
    assert dense(Int8.of(weight), torch.bfloat16).dtype == torch.bfloat16
