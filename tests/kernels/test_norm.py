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


@pytest.mark.parametrize("beta", [1.0, 0.75])
def test_a_norm_after_a_sum_and_one_before_a_gate_equal_the_plain_ones(beta: float) -> None:
    found = []
    for ops in (Ops.reference(), Ops.torch()):
        x, other = (torch.linspace(-2, end, 60, dtype=torch.float64).view(4, 15).requires_grad_() for end in (3, 1))
        weight = torch.linspace(1, 2, 15, dtype=torch.float64).requires_grad_()
        total, normed = ops.add_norm(x, other, 3.5, beta, weight, 1e-5)
        gated = ops.gated_norm(x, other, weight, 1e-5)
        (total**2 + normed**3 + gated**3).sum().backward()
        found.append((total, normed, gated, x.grad, other.grad, weight.grad))
    for mine, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, theirs)
    total, normed, gated = (each.detach() for each in found[0][:3])
    torch.testing.assert_close(total, 3.5 * x.detach() + beta * other.detach())
    torch.testing.assert_close(normed, reference.rms_norm(total, weight.detach(), 1e-5))
    torch.testing.assert_close(gated, reference.rms_norm(x.detach(), weight.detach(), 1e-5) * other.detach().sigmoid())


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_compiled_after_a_sum_and_before_a_gate_equals_the_fused_ones(rows: int, dtype: torch.dtype) -> None:
    x, other = (torch.randn(rows, 33).to(dtype) for _ in range(2))
    weight = torch.randn(33).to(dtype)
    with torch.no_grad():
        mine, told = (
            (*ops.add_norm(x, other, 3.5, 1.0, weight, 1e-5), ops.gated_norm(x, other, weight, 1e-5))
            for ops in (Ops.cpu(), Ops.torch())
        )
    assert torch.equal(mine[0], told[0])
    for a, b in zip(mine[1:], told[1:], strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a, b, rtol=2**-7 if dtype is torch.bfloat16 else 1e-6, atol=1e-7)
