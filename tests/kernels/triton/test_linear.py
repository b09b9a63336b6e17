"""The linear map by narrower weights against the plain one: every pair of dtypes, odd sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.kernels.linear import reference
from minimax_m1.kernels.linear.triton import linear
from minimax_m1.kernels.quantized import Int8


def weight_of(kind: torch.dtype, count: int, width: int, device: torch.device) -> torch.Tensor | Int8:
    weight = torch.randn(count, width, device=device)
    return Int8.of(weight) if kind is torch.int8 else weight.to(kind)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "count", "width"), [(1, 33, 16), (3, 70, 144), (20, 64, 128), (70, 130, 80)])
@pytest.mark.parametrize(
    ("x_kind", "w_kind", "bound"),
    [
        (torch.float32, torch.bfloat16, 5e-7),
        (torch.float32, torch.int8, 5e-7),
        (torch.bfloat16, torch.int8, 3e-3),
        (torch.float16, torch.int8, 4e-4),
        (torch.bfloat16, torch.bfloat16, 3e-3),
    ],
)
def test_products_equal_the_plain_ones(
    rows: int, count: int, width: int, x_kind: torch.dtype, w_kind: torch.dtype, bound: float, device: torch.device
) -> None:
    x, weight = torch.randn(rows, width, device=device).to(x_kind), weight_of(w_kind, count, width, device)
    out = linear(x, weight)
    exact = reference.linear(x.double(), weight.double() if isinstance(weight, torch.Tensor) else weight)
    assert out.dtype is x_kind and out.shape == (rows, count)
    assert (out - exact).norm() < bound * exact.norm()


@torch.no_grad()
def test_inputs_of_other_shapes_and_strides(device: torch.device) -> None:
    weight = weight_of(torch.int8, 40, 32, device)
    x = torch.randn(2, 3, 64, device=device)[..., 16:48]
    torch.testing.assert_close(linear(x, weight), reference.linear(x, weight), rtol=1e-5, atol=1e-4)
    assert linear(x[:0], weight).shape == (0, 3, 40)


def test_gradients_pass_where_torch_gives_them(device: torch.device) -> None:
    x, weight = torch.randn(5, 32, device=device, requires_grad=True), weight_of(torch.bfloat16, 8, 32, device)
    linear(x, weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.float().sum(0).expand(5, -1))  # type: ignore[union-attr]


@torch.no_grad()
def test_what_no_kernel_takes_is_refused_with_its_shape(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"\[3, 24\].*\[8, 24\]"):
        linear(torch.randn(3, 24, device=device), weight_of(torch.int8, 8, 24, device))
    with pytest.raises(ValueError, match=r"bfloat16 by a weight .* float32"):
        linear(torch.randn(3, 32, device=device).bfloat16(), weight_of(torch.float32, 8, 32, device))
