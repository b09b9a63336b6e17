"""Int8 weights: how they round, what they leave exact, and that views of them are weights too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minimax_m1.kernels import quantized
from minimax_m1.kernels.quantized import Int8, product
from minimax_m1.kernels.scaled import dense


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


def test_a_weight_is_narrowed_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Int8.of(torch.randn(3, 50, 7))
    whole = (held.values.float() * held.scales[..., None]).bfloat16()
    for entries in (2**18, 40, 1):
        monkeypatch.setattr(quantized, "_ENTRIES", entries)
        assert torch.equal(held.dequantized(torch.bfloat16), whole)


def multiplied(x: torch.Tensor, weight: Int8) -> torch.Tensor:
    out = torch.full((len(x), len(weight)), torch.nan, dtype=x.dtype)
    product(x, weight, out)
    return out


@pytest.mark.parametrize("bytewise", [True, False])
@pytest.mark.parametrize(("rows", "width", "outputs"), [(1, 1, 1), (2, 17, 3), (300, 40, 1000), (5, 3000, 8)])
def test_products_are_as_near_as_the_inputs_16_bits(
    rows: int, width: int, outputs: int, bytewise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_multiplies_bytes", lambda: bytewise)
    x = torch.randn(rows, width) * torch.logspace(-9, 9, rows)[:, None]
    x[0, 0] = 50 * x[0].abs().max()  # one that the others are small beside
    weight = Int8.of(torch.randn(outputs, width))
    exact = weight.dequantized(torch.float64)
    error = (multiplied(x, weight) - x.double() @ exact.T).abs()
    sizes = exact.abs().sum(1)
    half_a_step = x.double().abs().amax(1, keepdim=True) / 127 / 254 / 2
    noise = x.double().abs().sum(1, keepdim=True) * 2**-21 * exact.abs().amax(1)  # of float32, on the way
    assert (error <= half_a_step * sizes * (1 if bytewise else 0) + noise).all()


def test_whole_numbers_multiply_without_error() -> None:
    x = torch.randint(-127, 128, (9, 33)).float()
    x[:, 0] = 127
    weight = Int8(torch.randint(-127, 128, (12, 33)).to(torch.int8), torch.full((12,), 0.25))
    assert torch.equal(multiplied(x, weight), x @ weight.dequantized(torch.float32).T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_row_of_products_does_not_depend_on_the_others(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(40, 64).to(dtype), Int8.of(torch.randn(24, 64))
    x[3], x[5], x[7, 2] = 0, torch.nan, torch.inf
    out = multiplied(x, weight)
    assert (out[3] == 0).all() and out[5].isnan().all() and not out[7].isfinite().any()
    others = [n for n in range(40) if n not in (5, 7)]
    told = x[others].double() @ weight.dequantized(torch.float64).T
    assert (out[others] - told).norm() < (1e-2 if dtype == torch.bfloat16 else 1e-4) * told.norm()
    monkeypatch.setattr(quantized, "_ENTRIES", 100)
    if dtype == torch.float32 and quantized._multiplies_bytes():
        assert torch.equal(multiplied(x, weight)[others], out[others])


@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(0, 5, 6), (1, 64, 7), (9, 1, 4), (1, 1, 5), (4, 6, 1), (9, 5, 6)]
)
def test_views_and_narrow_shapes_are_read_aright(rows: int, width: int, outputs: int) -> None:
    weight = Int8.of(torch.randn(outputs, width))
    turned = Int8(weight.values.T.contiguous().T, weight.scales)
    x = torch.randn(width, rows).T
    for each in (x, x.contiguous(), torch.randn(rows, 3 * width)[:, width : 2 * width], torch.randn(width, 2).T[:rows]):
        exact = each.double() @ weight.dequantized(torch.float64).T
        for held in (weight, turned):
            assert (multiplied(each, held) - exact).norm() <= 3e-4 * exact.norm()


def test_products_that_would_need_gradients_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no gradients"):
        multiplied(torch.ones(2, 5).requires_grad_(), Int8.of(torch.ones(3, 5)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_off_the_cpu_a_weight_is_widened_in_one_launch_that_rounds_as_many_do(dtype: torch.dtype) -> None:
    class Launches(TorchDispatchMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    held = Int8(torch.empty(7000, 64, dtype=torch.int8, device="meta"), torch.empty(7000, device="meta"))
    with Launches() as launches:
        assert held.dequantized(dtype).dtype is dtype
    assert [name for name in launches.names if name in ("mul.out", "mul.Tensor", "mul_.Tensor", "copy_.default")] == [
        "mul.out"
    ]
    held = Int8.of(torch.randn(30, 50))
    once = torch.mul(held.values, held.scales[:, None], out=torch.empty(30, 50, dtype=dtype))
    assert torch.equal(once, held.dequantized(dtype))
