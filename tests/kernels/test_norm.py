"""The fused norm against the plain one, and where it rounds in bfloat16."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.kernels.norm import reference
from minimax_m1.kernels.norm import torch as fast
from minimax_m1.kernels.ops import Ops


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fused_equals_plain(dtype: torch.dtype) -> None:
    x, weight = torch.randn(7, 33).to(dtype) * 100, torch.randn(33).to(dtype)
    torch.testing.assert_close(fast.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))


def test_bfloat16_statistics_are_float32() -> None:
    x = torch.full((1, 4096), 3.0, dtype=torch.bfloat16)
    out = fast.rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 1e-6)
    assert torch.equal(out, torch.ones_like(out))  # a bfloat16 mean of 4096 squares would be off by percents


def test_gradients_agree() -> None:
    grads = []
    for rms_norm in (reference.rms_norm, fast.rms_norm):
        x = torch.linspace(-2, 3, 60, dtype=torch.float64).view(4, 15).requires_grad_()
        weight = torch.linspace(1, 2, 15, dtype=torch.float64).requires_grad_()
        (rms_norm(x, weight, 1e-5) ** 3).sum().backward()
        grads.append((x.grad, weight.grad))
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("width", [1, 3, 17, 250])
def test_compiled_equals_plain(width: int) -> None:
    wide = torch.randn(40, 2 * width) * 100
    weight = torch.randn(width)
    with torch.no_grad():
        for x in (wide[:1, :width], wide[:16, width:], wide[:17, :width], wide[:0, :width], wide[:1, :width] * 0):
            torch.testing.assert_close(Ops.cpu().norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
        nan = torch.full((1, width), float("nan"))
        assert Ops.cpu().norm(nan, weight, 1e-5).isnan().all()
        x = wide[:1, :width].double()
        assert torch.equal(Ops.cpu().norm(x, weight.double(), 1e-5), fast.rms_norm(x, weight.double(), 1e-5))


@pytest.mark.parametrize("width", [1, 3, 17, 250, 1024])
def test_compiled_bfloat16_rounds_where_torch_rounds(width: int) -> None:
    x, weight = (torch.randn(rows, width).bfloat16() for rows in (16, 1))
    with torch.no_grad():
        out, told = Ops.cpu().norm(x, weight[0], 1e-5), fast.rms_norm(x, weight[0], 1e-5)
    # A mean of squares added up in another order may tip a number over the edge between two neighbours.
    torch.testing.assert_close(out, told, rtol=2**-7, atol=0)
    assert (out == told).float().mean() > 0.99
