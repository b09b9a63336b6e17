"""Rotary positions in Triton against the plain ones in float64: forward, backward, and a decode step's write."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.kernels.rope import reference
from minimax_m1.kernels.rope.triton import rope, rotate_and_store

BOUNDS = [(torch.float32, 1e-6), (torch.bfloat16, 3e-3), (torch.float16, 4e-4)]
POSITIONS = (5, 0, 999_999, 17, 70_000, 1, 2, 3, 4, 40, 41, 42, 43)


def tables(count: int, rotary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.rope_tables(torch.tensor(POSITIONS[:count], device=device), rotary, 1e7, torch.float32)


def assert_near(name: str, mine: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    off = (mine.double() - expected).norm() / expected.norm()
    assert off < bound, f"{name} is off by {off:.1e} of its norm"


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(
    ("count", "heads", "width", "rotary"),
    [(13, 3, 32, 16), (5, 8, 32, 32), (3, 64, 128, 64), (1, 2, 48, 20), (4, 1, 16, 2)],
)
def test_outputs_and_gradients_equal_plain(
    count: int, heads: int, width: int, rotary: int, dtype: torch.dtype, bound: float, device: torch.device
) -> None:
    x, grad = (torch.randn(count, heads, width).to(dtype).to(device) for _ in range(2))
    cos, sin = tables(count, rotary, device)
    mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = rope(mine, cos, sin), reference.rope(exact, cos.double(), sin.double())
    assert out.dtype is dtype
    assert_near("out", out.detach(), expected.detach(), bound)
    assert torch.equal(out[..., rotary:], x[..., rotary:])
    out.backward(grad)
    expected.backward(grad.double())
    assert mine.grad is not None and exact.grad is not None
    assert_near("gradient", mine.grad, exact.grad, bound)
    assert torch.equal(rope(x, cos, sin), out)  # without a gradient


def test_parts_of_a_wider_row_are_taken_as_they_lie(device: torch.device) -> None:
    whole = torch.randn(7, 5, 96, device=device)
    cos, sin = tables(7, 16, device)
    for x in (whole[:, 1:4, 32:64], whole[:, ::2, :32], whole[::2, :, 64:]):
        angles = cos[: len(x)], sin[: len(x)]
        assert_near("out", rope(x, *angles), reference.rope(x.double(), *(a.double() for a in angles)), 1e-6)


def test_a_gradient_without_memory_of_its_own_is_taken(device: torch.device) -> None:
    x, (cos, sin) = torch.randn(3, 2, 16, device=device), tables(3, 8, device)
    grads = []
    for op in (rope, reference.rope):
        leaf = x.clone().requires_grad_()
        op(leaf, cos, sin).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_nothing_to_turn_is_given_back(device: torch.device) -> None:
    x = torch.randn(3, 2, 16, device=device)
    assert rope(x, *tables(3, 0, device)) is x
    assert rope(x[:0], *tables(0, 8, device)).shape == (0, 2, 16)


def test_float64_is_refused_with_the_shape(device: torch.device) -> None:
    cos, sin = tables(3, 8, device)
    with pytest.raises(ValueError, match=r"\[3, 2, 16\].*not torch.float64 with tables of torch.float32"):
        rope(torch.randn(3, 2, 16, dtype=torch.float64, device=device), cos, sin)
    with pytest.raises(ValueError, match=r"tables of torch.float64"):
        rope(torch.randn(3, 2, 16, device=device), cos.double(), sin.double())


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(
    ("heads", "groups", "width", "rotary"), [(8, 2, 32, 16), (20, 20, 16, 16), (3, 1, 48, 10), (2, 2, 16, 0)]
)
def test_a_decode_step_equals_plain(
    heads: int, groups: int, width: int, rotary: int, dtype: torch.dtype, bound: float, device: torch.device
) -> None:
    fused = torch.randn(5, heads + 2 * groups, width).to(dtype).to(device)
    q, k, v = fused.split((heads, groups, groups), 1)
    cos, sin = tables(5, rotary, device)
    places = torch.tensor([35, -1, 0, 63, 16], device=device)
    pools = torch.randn(2, 4, 16, groups, width).to(dtype).to(device)
    exact = pools.double()
    out = rotate_and_store(q, k, v, cos, sin, *pools, places)
    wide = [x.double() for x in (q, k, v, cos, sin)]
    assert_near("queries", out, reference.rotate_and_store(*wide, *exact, places), bound)
    assert_near("keys", pools[0], exact[0], bound)
    assert torch.equal(pools[1].double(), exact[1])
    assert out.dtype is dtype


def test_pools_may_be_narrower_and_parts_of_a_tensor(device: torch.device) -> None:
    q, k, v = (torch.randn(2, 2, 16, device=device) for _ in range(3))
    cos, sin = tables(2, 8, device)
    whole = torch.zeros(2, 3, 16, 4, 16, dtype=torch.bfloat16, device=device)
    pools = whole[:, :, :, 1::2]
    rotate_and_store(q, k, v, cos, sin, *pools, torch.tensor([40, 3], device=device))
    rows = pools.flatten(1, 2)[:, [40, 3]]
    assert torch.equal(rows[0], rope(k, cos, sin).bfloat16()) and torch.equal(rows[1], v.bfloat16())
    assert not whole[:, :, :, ::2].any() and pools.count_nonzero() == rows.count_nonzero()


def test_no_tokens_are_no_rows(device: torch.device) -> None:
    q, (cos, sin), pool = torch.randn(0, 2, 16, device=device), tables(0, 8, device), torch.zeros(1, 16, 2, 16)
    places = torch.zeros(0, dtype=torch.int64, device=device)
    assert rotate_and_store(q, q, q, cos, sin, *[pool.to(device)] * 2, places).shape == (0, 2, 16)
