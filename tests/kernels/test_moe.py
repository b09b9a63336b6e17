"""Grouped experts against every-expert-on-every-token, and the router's choices against its own definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from minimax_m1.kernels.moe import reference
from minimax_m1.kernels.moe import torch as fast
from minimax_m1.kernels.moe.route import route
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8


def inputs(tokens: int, experts: int, top_k: int, threshold: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    chosen, weights = route(random(tokens, experts), top_k, threshold)
    return random(tokens, 6), chosen, weights, random(experts, 10, 6), random(experts, 6, 5)


@given(st.integers(1, 40), st.integers(1, 6), st.data(), st.sampled_from([1.0, 0.6, 0.01]))
def test_grouped_equals_plain(tokens: int, experts: int, data: st.DataObject, threshold: float) -> None:
    args = inputs(tokens, experts, data.draw(st.integers(1, experts)), threshold)
    torch.testing.assert_close(fast.moe(*args), reference.moe(*args), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threshold", [1.0, 0.6])
def test_gradients_equal_the_reference(threshold: float) -> None:
    grads = []
    for moe in (reference.moe, fast.moe):
        x, chosen, weights, w13, w2 = inputs(30, 5, 2, threshold)
        leaves = [t.detach().requires_grad_() for t in (x, weights, w13, w2)]
        out = moe(leaves[0], chosen, leaves[1], leaves[2], leaves[3])
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        grads.append([t.grad for t in leaves])
    keep = chosen >= 0  # the weight of a dropped slot is a constant 0
    for index, (mine, theirs) in enumerate(zip(grads[1], grads[0], strict=True)):
        if index == 1:
            mine, theirs = mine[keep], theirs[keep]
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("tokens", "threshold"), [(1, 1.0), (30, 0.6), (200, 1.0), (1000, 0.6)])
def test_bfloat16_groups_of_rounded_sizes_give_the_references_gradients(tokens: int, threshold: float) -> None:
    grads = []
    for moe, dtype in ((reference.moe, torch.float64), (fast.moe, torch.bfloat16)):
        x, chosen, weights, w13, w2 = inputs(tokens, 5, 2, threshold)
        leaves = [t.bfloat16().to(dtype).requires_grad_() for t in (x, weights, w13, w2)]
        out = moe(leaves[0], chosen, leaves[1], leaves[2], leaves[3])
        (out.double() * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        grads.append([out.detach(), *(t.grad for t in leaves)])
    keep = chosen >= 0
    for index, (mine, exact) in enumerate(zip(grads[1], grads[0], strict=True)):
        if index == 2:
            mine, exact = mine[keep], exact[keep]
        assert mine.dtype == torch.bfloat16 and (mine - exact).norm() < 2e-2 * exact.norm()


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=300))
def test_rounded_slices_hold_every_entry_once(flat: list[int]) -> None:
    plan = fast._Plan(torch.tensor(flat)[:, None], 5, rounded=True)
    assert plan.order[plan.inverse].tolist() == list(range(len(flat)))
    assert sorted(plan.places.tolist()) == sorted(plan.inverse.tolist())
    for expert, here in plan.groups:
        held = [place for place in plan.places.tolist() if here.start <= place < here.stop]
        assert len(held) == flat.count(expert) >= (here.stop - here.start) * 8 / 9
        assert all(flat[plan.order[place]] == expert for place in held)


def test_an_expert_without_tokens_gets_a_zero_gradient() -> None:
    x, _, _, w13, w2 = inputs(4, 3, 1)
    w13.requires_grad_()
    fast.moe(x, torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1, dtype=torch.float64), w13, w2).sum().backward()
    assert w13.grad is not None and w13.grad[0].abs().sum() > 0 and w13.grad[1:].abs().sum() == 0


@pytest.mark.parametrize("learned", [(), (3,), (4,), (3, 4)])
def test_frozen_experts_cost_no_gradient(learned: tuple[int, ...]) -> None:
    products = 0

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal products
            products += func is torch.ops.aten.mm.out
            return func(*args, **(kwargs or {}))

    every = [each.clone().requires_grad_(n in (0, 3, 4)) for n, each in enumerate(inputs(30, 5, 2))]
    some = [each.detach().clone().requires_grad_(n in (0, *learned)) for n, each in enumerate(every)]
    fast.moe(*every).square().sum().backward()
    out = fast.moe(*some).square().sum()
    with Products():
        out.backward()
    for n in (0, 3, 4):
        expected = every[n].grad if n in (0, *learned) else None
        assert some[n].grad is expected is None or torch.equal(some[n].grad, expected)  # type: ignore[arg-type]
    used = len(every[1].unique())
    assert products == used * (1 + len(learned))  # the one is the gradient of rows


def test_a_gradient_of_a_gradient_is_refused() -> None:
    x, *rest = inputs(30, 5, 2)
    (grad,) = torch.autograd.grad(fast.moe(x.requires_grad_(), *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@given(st.floats(0.01, 1.0), st.integers(1, 5))
def test_the_threshold_keeps_the_fewest_experts_that_reach_it(threshold: float, top_k: int) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, full = route(logits, top_k)
    experts, weights = route(logits, top_k, threshold)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20, dtype=torch.float64))
    for row in range(20):
        kept = int((experts[row] >= 0).sum())
        assert kept >= 1 and (weights[row][experts[row] < 0] == 0).all()
        assert full[row, :kept].sum() >= threshold - 1e-9 or kept == top_k
        assert kept == 1 or full[row, : kept - 1].sum() < threshold


def test_each_token_may_have_a_threshold_of_its_own() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    mixed = route(logits, 3, torch.tensor([1.0, 0.5, 1.0, 0.2, 1.0, 0.9]))
    for row, threshold in enumerate([1.0, 0.5, 1.0, 0.2, 1.0, 0.9]):
        alone = route(logits[row : row + 1], 3, threshold)
        assert torch.equal(mixed[0][row], alone[0][0])
        torch.testing.assert_close(mixed[1][row], alone[1][0])


@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 31])
@pytest.mark.parametrize(("width", "inner"), [(1, 1), (3, 17), (17, 3), (250, 37)])
@pytest.mark.parametrize("threshold", [1.0, 0.6])
def test_compiled_equals_plain(tokens: int, width: int, inner: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    logits, x, w13, w2 = (
        torch.randn(*shape, generator=generator)
        for shape in ((tokens, 5), (2 * width, tokens), (5, 2 * inner, width), (5, width, inner))
    )
    chosen, weights = route(logits, 3, threshold)
    assert (chosen < 0).any() == (threshold < 1)
    args = x.T[:, ::2], chosen, weights, w13 / width**0.5, w2 / inner**0.5
    with torch.no_grad():
        torch.testing.assert_close(Ops.cpu().moe(*args), reference.moe(*args), rtol=1e-5, atol=1e-5)
        other = [t.half() if t.is_floating_point() else t for t in args]
        assert torch.equal(Ops.cpu().moe(*other), fast.moe(*other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", ["bfloat16", "int8"])
@pytest.mark.parametrize("tokens", [1, 2, 9, 31])
@pytest.mark.parametrize(("width", "inner"), [(1, 1), (3, 17), (17, 3), (250, 37), (256, 512)])
def test_narrow_weights_equal_the_plain_form(
    dtype: torch.dtype, held: str, tokens: int, width: int, inner: int
) -> None:
    chosen, weights = route(torch.randn(tokens, 5), 3, 0.6)
    x = torch.randn(tokens, width).to(dtype)
    made = torch.randn(5, 2 * inner, width) / width**0.5, torch.randn(5, width, inner) / inner**0.5
    w13, w2 = (Int8.of(w) if held == "int8" else w.bfloat16() for w in made)
    told = reference.moe(x.double(), chosen, weights, w13, w2).to(dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-4}
    with torch.no_grad():
        out = Ops.cpu().moe(x, chosen, weights, w13, w2)
        assert out.dtype == dtype
        torch.testing.assert_close(out, told, **close)
        if held == "int8":  # torch's path rounds these weights to bfloat16 where x is, and a float32 x to 16 bits
            loose = fast.moe(x, chosen, weights, w13, w2)
            assert (loose - told).norm() <= (3e-4 if dtype == torch.float32 else 2e-2) * told.norm()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("held", ["float32", "bfloat16", "int8"])
def test_large_experts_on_any_number_of_threads(threads: int, held: str) -> None:
    made = torch.randn(3, 1026, 384) / 20, torch.randn(3, 384, 513) / 20
    w13, w2 = (Int8.of(w) if held == "int8" else w.to(getattr(torch, held)) for w in made)
    chosen, weights = route(torch.randn(6, 3), 2)
    x, before = torch.randn(6, 384), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            out = Ops.cpu().moe(x, chosen, weights, w13, w2)
    finally:
        torch.set_num_threads(before)
    told = reference.moe(x.double(), chosen, weights, w13, w2).float()
    torch.testing.assert_close(out, told, rtol=1e-5, atol=1e-5)


def test_compiled_gates_saturate_as_silu_does() -> None:
    x, w13 = torch.ones(1, 1), torch.tensor([-200.0, 200.0, 1.0, 1.0]).view(1, 4, 1)
    one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
    with torch.no_grad():
        out = Ops.cpu().moe(x, *one, w13, torch.tensor([[[1.0, 1.0]]]))
    assert out == 200
