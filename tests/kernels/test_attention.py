"""Fused softmax attention against the plain one: grouped heads, cached keys, empty and single-token sequences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.kernels.attention import reference
from minimax_m1.kernels.attention import torch as fast
from minimax_m1.kernels.segments import Segments


def inputs(lengths: list[int], pasts: list[int], heads: int, groups: int) -> tuple[torch.Tensor, list, list]:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(len(lengths))
    q = torch.randn(sum(lengths), heads, 8, generator=generator, dtype=torch.float64)
    totals = [n + p for n, p in zip(lengths, pasts, strict=True)]
    keys, values = (
        [torch.randn(n, groups, 8, generator=generator, dtype=torch.float64) for n in totals] for _ in range(2)
    )
    return q, keys, values


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4),
    st.sampled_from([(4, 4), (4, 2), (6, 1)]),
)
def test_fused_equals_plain(shape: list[tuple[int, int]], heads: tuple[int, int]) -> None:
    lengths, pasts = [n for n, _ in shape], [p for _, p in shape]
    q, keys, values = inputs(lengths, pasts, *heads)
    segments = Segments.of(lengths)
    expected = reference.attention(q, keys, values, segments)
    torch.testing.assert_close(fast.attention(q, keys, values, segments), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("length", "past"), [(1, 700), (300, 0), (600, 37), (3, 900), (2, 1)])
def test_long_ones_and_gradients(length: int, past: int) -> None:
    segments = Segments.of([length])
    results = []
    for attention in (reference.attention, fast.attention):
        q, keys, values = inputs([length], [past], 4, 2)
        leaves = [q.requires_grad_(), keys[0].requires_grad_(), values[0].requires_grad_()]
        out = attention(q, keys, values, segments)
        (out * out).sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves)])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize(("length", "past"), [(2, 1), (300, 700), (700, 30)])
def test_old_and_new_keys_together_are_as_near_as_one_run(
    length: int, past: int, dtype: torch.dtype, bound: float
) -> None:
    q, keys, values = inputs([length], [past], 4, 2)
    q, keys, values = 3 * q.to(dtype), [x.to(dtype) for x in keys], [x.to(dtype) for x in values]
    segments = Segments.of([length])
    expected = reference.attention(q.double(), [x.double() for x in keys], [x.double() for x in values], segments)
    with torch.inference_mode():
        out = fast.attention(q, keys, values, segments)
    assert out.dtype == dtype and (out - expected).norm() < bound * expected.norm()


def test_without_gradients_cached_keys_give_the_same() -> None:
    q, keys, values = inputs([50], [300], 4, 2)
    expected = reference.attention(q, keys, values, Segments.of([50]))
    with torch.inference_mode():
        out = fast.attention(q, keys, values, Segments.of([50]))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("length", "past"), [(2, 1), (300, 700), (700, 30)])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
def test_bfloat16_gradients_are_the_references_but_for_rounding(length: int, past: int, heads: tuple[int, int]) -> None:
    results = []
    for attention, dtype in ((reference.attention, torch.float64), (fast.attention, torch.bfloat16)):
        q, keys, values = inputs([length], [past], *heads)
        leaves = [x.bfloat16().to(dtype).requires_grad_() for x in (q, keys[0], values[0])]
        out = attention(leaves[0], [leaves[1]], [leaves[2]], Segments.of([length]))
        out.double().sum().backward()  # a gradient without memory of its own, one number for all
        results.append([x.grad for x in leaves])
    for mine, exact in zip(results[1], results[0], strict=True):
        assert mine.dtype == torch.bfloat16 and (mine - exact).norm() < 2e-2 * exact.norm()


def test_a_gradient_of_a_gradient_is_refused() -> None:
    q, keys, values = inputs([30], [20], 4, 2)
    out = fast.attention(q.requires_grad_(), keys, values, Segments.of([30]))
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_masks_say_the_same_where_there_is_no_fused_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_MASK_SIZE", 2000)  # blocks of a few queries
    q, keys, values = inputs([50], [300], 4, 2)
    expected = reference.attention(q, keys, values, Segments.of([50]))
    ours = fast._Together.apply

    def masked(q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, past: int) -> torch.Tensor:
        out = fast._masked(q, fast._of_each_head(key, q), fast._of_each_head(value, q), past)
        torch.testing.assert_close(out, ours(q, key, value, past), rtol=1e-9, atol=1e-9)
        return out

    monkeypatch.setattr(fast._Together, "apply", masked)
    torch.testing.assert_close(fast.attention(q, keys, values, Segments.of([50])), expected, rtol=1e-9, atol=1e-9)


def test_kept_keys_wider_than_the_queries_are_narrowed_under_autocast() -> None:
    q, keys, values = inputs([5], [30], 4, 2)
    low = q.bfloat16(), [keys[0].float()], [values[0].float()], Segments.of([5])
    with torch.autocast("cpu"):
        out = fast.attention(*low)
    expected = reference.attention(q, keys, values, Segments.of([5]))
    assert out.dtype == torch.bfloat16 and (out - expected).norm() < 1e-2 * expected.norm()
