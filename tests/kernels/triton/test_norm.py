"""The norms for GPUs against the plain ones in float64: outputs, gradients, rounding, odd and strided rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.norm import reference
from minimax_m1.kernels.norm import torch as plain
from minimax_m1.kernels.norm import triton as fast

BOUNDS = {torch.float32: 3e-6, torch.bfloat16: 5e-3, torch.float16: 7e-4}  # of the norm; bfloat16 rounds three times
WIDTHS = [2, 33, 128, 250]


def off(mine: Tensor, truth: Tensor) -> float:
    """The distance from the truth, in parts of its norm."""
    return float((mine.detach().double() - truth.detach()).norm() / truth.detach().norm().clamp(min=1e-30))


def drawn(rows: int, width: int, dtype: torch.dtype, device: torch.device, count: int) -> list[Tensor]:
    return [torch.randn(rows, width, device=device).to(dtype) for _ in range(count)]


def gradients(
    op: Callable[..., Tensor | tuple[Tensor, Tensor]], leaves: list[Tensor], pulls: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and the leaves' gradients."""
    leaves = [each.detach().requires_grad_() for each in leaves]
    out = op(*leaves)
    outs = list(out) if isinstance(out, tuple) else [out]
    found = torch.autograd.grad(outs, leaves, [pull.to(each.dtype) for pull, each in zip(pulls, outs, strict=True)])
    return outs, list(found)


def check(name: str, leaves: list[Tensor], pulls: list[Tensor], dtype: torch.dtype, *scales: float) -> None:
    def call(ops: object) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
        return lambda *each: getattr(ops, name)(*each[:-1], *scales, each[-1], 1e-5)

    mine, told = gradients(call(fast), leaves, pulls), gradients(call(reference), [x.double() for x in leaves], pulls)
    for kind, found, truth in (("output", mine[0], told[0]), ("gradient", mine[1], told[1])):
        for n, (a, b) in enumerate(zip(found, truth, strict=True)):
            assert off(a, b) < BOUNDS[dtype], f"{name}: {kind} {n} is off by {off(a, b):.1e}"


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_outputs_and_gradients_equal_the_plain_norms(width: int, dtype: torch.dtype, device: torch.device) -> None:
    x, other, *pulls = drawn(37, width, dtype, device, 4)
    weight = torch.rand(width, device=device).to(dtype) + 0.5
    check("rms_norm", [x, weight], pulls[:1], dtype)
    check("gated_rms_norm", [x, other, weight], pulls[:1], dtype)
    check("add_rms_norm", [x, other, weight], pulls, dtype, 3.5565588200778455, 0.75)


def test_one_row_fills_a_program_and_programs_take_several(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "backward_programs", lambda blocks, tile: min(blocks, 3))
    x, other, pull = drawn(7, 5000, torch.float32, device, 3)
    weight = torch.rand(5000, device=device) + 0.5
    assert fast.forward_tiles(5000).rows == fast.backward_tiles(5000).rows == 1
    check("gated_rms_norm", [x, other, weight], [pull], torch.float32)


def test_bfloat16_rounds_where_torch_rounds(device: torch.device) -> None:
    x, other = drawn(50, 96, torch.bfloat16, device, 2)
    weight = torch.randn(96, device=device).bfloat16()
    pairs = [
        (ops.rms_norm(x, weight, 1e-5), *ops.add_rms_norm(x, other, 3.5, 1.0, weight, 1e-5), gated)
        for ops, gated in ((fast, fast.gated_rms_norm(x, other, weight, 1e-5)),
                           (plain, plain.gated_rms_norm(x, other, weight, 1e-5)))
    ]  # fmt: skip
    for mine, told in zip(*pairs, strict=True):
        assert mine.dtype is told.dtype is torch.bfloat16
        torch.testing.assert_close(mine, told, rtol=2**-7, atol=0)
        # A mean of squares added up in another order may tip a number over the edge between two neighbours.
        assert (mine == told).float().mean() > 0.99


def test_bfloat16_statistics_are_float32(device: torch.device) -> None:
    x = torch.full((1, 4096), 3.0, dtype=torch.bfloat16, device=device)
    out = fast.rms_norm(x, torch.ones(4096, dtype=torch.bfloat16, device=device), 1e-6)
    assert torch.equal(out, torch.ones_like(out))


def test_a_wider_weight_or_residual_widens_the_output(device: torch.device) -> None:
    x, other = drawn(5, 40, torch.bfloat16, device, 2)
    weight = torch.rand(40, device=device) + 0.5
    assert off(fast.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5).double()) < 4e-3
    assert fast.rms_norm(x, weight, 1e-5).dtype is fast.gated_rms_norm(x, other, weight, 1e-5).dtype is torch.float32
    total, out = fast.add_rms_norm(x.float(), other, 3.5, 1.0, weight, 1e-5)
    told = reference.add_rms_norm(x.double(), other.double(), 3.5, 1.0, weight.double(), 1e-5)
    assert total.dtype is out.dtype is torch.float32
    assert off(total, told[0]) < 1e-6 and off(out, told[1]) < 1e-6
    residual, branch = x.float().requires_grad_(), other.requires_grad_()
    fast.add_rms_norm(residual, branch, 3.5, 1.0, weight, 1e-5)[1].sum().backward()
    assert residual.grad is not None and residual.grad.dtype is torch.float32
    assert branch.grad is not None and branch.grad.dtype is torch.bfloat16


def test_rows_may_lie_apart_and_have_more_dimensions(device: torch.device) -> None:
    wide = torch.randn(3, 4, 200, device=device)
    weight = torch.randn(66, device=device)
    for x in (wide[..., 7:73], wide[:, 1, :66], wide[:, 1:3, 100:166].transpose(0, 1), wide[0, 0, :66],
              wide.transpose(1, 2)[:, :66].transpose(1, 2)[..., :66]):  # fmt: skip
        out = fast.rms_norm(x, weight, 1e-5)
        assert out.shape == x.shape
        assert off(out, reference.rms_norm(x.double(), weight.double(), 1e-5)) < 1e-6
        for other in (x, x + 1):  # far rows and near ones
            for a, b in ((x, other), (other, x)):
                told = reference.gated_rms_norm(a.double(), b.double(), weight.double(), 1e-5)
                assert off(fast.gated_rms_norm(a, b, weight, 1e-5), told) < 1e-6
                sums = reference.add_rms_norm(a.double(), b.double(), 2.0, 0.5, weight.double(), 1e-5)
                for mine, true in zip(fast.add_rms_norm(a, b, 2.0, 0.5, weight, 1e-5), sums, strict=True):
                    assert off(mine, true) < 1e-6


def test_gradients_of_rows_that_lie_apart(device: torch.device) -> None:
    wide, pulls = torch.randn(9, 300, device=device), torch.randn(9, 200, device=device)
    weight = torch.rand(90, device=device) + 0.5
    leaves = [wide[:, 5:95], wide[:, 100:190], weight]
    for a, b in zip(
        gradients(lambda x, g, w: fast.gated_rms_norm(x, g, w, 1e-5), leaves, [pulls[:, 3:93]])[1],
        gradients(
            lambda x, g, w: reference.gated_rms_norm(x, g, w, 1e-5), [x.double() for x in leaves], [pulls[:, 3:93]]
        )[1],
        strict=True,
    ):
        assert off(a, b) < 3e-6


def test_only_what_is_asked_for_gets_a_gradient(device: torch.device) -> None:
    values = [*drawn(6, 20, torch.float32, device, 2), torch.rand(20, device=device)]
    truth = gradients(lambda r, b, w: reference.add_rms_norm(r, b, 2.0, 0.5, w, 1e-5)[1], values, values[:1])[1]
    for asked in range(3):
        leaves = [each.clone().requires_grad_(n == asked) for n, each in enumerate(values)]
        fast.add_rms_norm(leaves[0], leaves[1], 2.0, 0.5, leaves[2], 1e-5)[1].backward(values[0])
        for n, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (n == asked)
            assert leaf.grad is None or off(leaf.grad, truth[n].double()) < 1e-5, f"gradient {n}"


def test_a_gradient_of_the_sum_alone_passes_through(device: torch.device) -> None:
    residual, branch = (x.requires_grad_() for x in drawn(3, 20, torch.float32, device, 2))
    weight = torch.rand(20, device=device).requires_grad_()
    fast.add_rms_norm(residual, branch, 2.0, 0.5, weight, 1e-5)[0].sum().backward()
    for grad, told in ((residual.grad, 2.0), (branch.grad, 0.5), (weight.grad, 0.0)):
        assert grad is not None and torch.equal(grad, torch.full_like(grad, told))


def test_no_rows_are_fine(device: torch.device) -> None:
    x, gate = (torch.empty(0, 48, device=device).requires_grad_() for _ in range(2))
    weight = torch.rand(48, device=device).requires_grad_()
    out = fast.gated_rms_norm(x, gate, weight, 1e-5)
    out.sum().backward()
    assert out.shape == (0, 48) and x.grad is not None and x.grad.shape == (0, 48)
    assert weight.grad is not None and not weight.grad.any()


def test_a_row_of_zeros_is_zero_and_no_number_stays_in_its_row(device: torch.device) -> None:
    x = torch.randn(3, 48, device=device)
    x[0], x[1, 5] = 0, float("nan")
    out = fast.rms_norm(x, torch.ones(48, device=device), 1e-5)
    assert not out[0].any() and out[1].isnan().all() and out[2].isfinite().all()


def test_what_is_not_supported_is_refused_with_its_shape(device: torch.device) -> None:
    wide = torch.randn(2, 16_385, device=device)
    with pytest.raises(ValueError, match=r"\[2, 16385\].*16384"):
        fast.rms_norm(wide, wide[0], 1e-5)
    double = torch.randn(2, 8, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=r"\[2, 8\].*float64.*bfloat16"):
        fast.rms_norm(double, double[0], 1e-5)
