"""The grouped experts against every-expert-on-every-token in float64: outputs, gradients, and who gets which row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.fp8 import Fp8
from minimax_m1.kernels.moe import reference, triton_plan
from minimax_m1.kernels.moe import triton as fast
from minimax_m1.kernels.moe.route import route
from minimax_m1.kernels.moe.triton_grad import outer
from minimax_m1.kernels.moe.triton_plan import plan
from minimax_m1.kernels.quantized import Int8

CLOSE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


class Case(NamedTuple):
    x: Tensor
    experts: Tensor
    weights: Tensor
    w13: Tensor
    w2: Tensor


def case(
    device: torch.device, tokens: int, *, slots: int = 2, count: int = 4, width: int = 48, inner: int = 48,
    threshold: float = 1.0,
) -> Case:  # fmt: skip
    """Random tokens and experts, float32; under a threshold of 1 some entries are dropped."""
    experts, weights = route(torch.randn(tokens, count, device=device), slots, threshold)
    w13 = torch.randn(count, 2 * inner, width, device=device) / width**0.5
    w2 = torch.randn(count, width, inner, device=device) / inner**0.5
    return Case(torch.randn(tokens, width, device=device), experts, weights, w13, w2)


def in_dtype(some: Case, dtype: torch.dtype) -> Case:
    """Rounded once; routing weights stay as they are."""
    return some._replace(x=some.x.to(dtype), w13=some.w13.to(dtype), w2=some.w2.to(dtype))


def exact(some: Case) -> Tensor:
    wide = (t.double() if isinstance(t, Tensor) else t for t in (some.x, some.weights, some.w13, some.w2))
    x, weights, w13, w2 = wide
    return reference.moe(x, some.experts, weights, w13, w2)


def error(mine: Tensor, told: Tensor) -> float:
    assert mine.shape == told.shape
    return float((mine.double() - told).norm() / told.norm())


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("tokens", "slots", "count", "rows"),
    [(0, 2, 3, 16), (1, 1, 1, 16), (1, 2, 32, 16), (37, 2, 5, 16), (150, 3, 33, 64), (600, 2, 5, 16)],
)
def test_every_entry_has_one_row_among_its_experts(
    tokens: int, slots: int, count: int, rows: int, alone: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_plan, "_COMPARED", 2**14 if alone else 0)  # in one program, or in many of 16 entries
    experts = torch.randint(-1, count, (tokens, slots), device=device)
    made = plan(experts, count, rows)
    order, owner, starts = made.order.tolist(), made.owner.tolist(), made.starts.tolist()
    for expert in range(count):
        blocks = slice(starts[expert], starts[expert + 1])
        sent = (experts.flatten() == expert).nonzero().flatten().tolist()
        held = order[blocks.start * rows : blocks.stop * rows]
        assert held == sent + [-1] * (-len(sent) % rows)
        assert owner[blocks] == [expert] * (-(-len(sent) // rows))
    assert owner[starts[-1] :] == [-1] * (len(owner) - starts[-1])


def test_the_worst_routing_fills_the_room_of_a_plan(device: torch.device) -> None:
    for sizes in ([1, 1, 1, 1], [17, 1, 1, 1], [16, 16, 16, 16], [33, 0, 0, 1]):
        experts = torch.arange(4, device=device).repeat_interleave(torch.tensor(sizes, device=device))
        made = plan(experts[:, None], 4, 16)
        used = sum(-(-size // 16) for size in sizes)
        assert made.starts[-1] == used <= len(made.owner) == min(sum(sizes), (sum(sizes) + 60) // 16)


@pytest.mark.parametrize(
    ("tokens", "slots", "count", "threshold"),
    [
        (0, 2, 4, 1.0),
        (1, 1, 1, 1.0),
        (1, 2, 4, 0.4),
        (7, 1, 3, 1.0),
        (33, 2, 4, 0.6),
        (19, 3, 5, 0.6),
        (40, 2, 32, 1.0),
    ],
)
def test_outputs_equal_the_reference(
    tokens: int, slots: int, count: int, threshold: float, device: torch.device
) -> None:
    some = case(device, tokens, slots=slots, count=count, threshold=threshold, width=32 if count == 32 else 48)
    out = fast.moe(*some)
    assert out.dtype == torch.float32 and out.shape == some.x.shape
    assert tokens == 0 or error(out, exact(some)) < CLOSE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("each", [1, 20, 100, 1000])
def test_every_cut_gives_the_reference(each: int, dtype: torch.dtype, device: torch.device) -> None:
    some = in_dtype(case(device, 45, threshold=0.7, width=144), dtype)
    cut = fast.choose_cut(each * 4, 4, 6144, dtype, dtype)
    assert cut.rows == {1: 16, 20: 32, 100: 64, 1000: 128}[each]
    out = fast.moe(*some, cut=cut)
    assert out.dtype == dtype and error(out, exact(some)) < CLOSE[dtype]


def test_all_tokens_to_one_expert(device: torch.device) -> None:
    some = case(device, 50, slots=1)
    some = some._replace(experts=torch.full_like(some.experts, 2))
    cut = fast.choose_cut(1, 4, 48, torch.float32, torch.float32)
    bands = replace(cut, up=replace(cut.up, group=3), down=replace(cut.down, group=3))  # of its four blocks
    assert torch.equal(fast.moe(*some, cut=cut), fast.moe(*some, cut=bands))
    assert error(fast.moe(*some, cut=bands), exact(some)) < CLOSE[torch.float32]


def test_a_dropped_entry_counts_as_nothing_even_in_the_first_slot(device: torch.device) -> None:
    some = case(device, 20)
    some.experts[3] = some.experts[5, 0] = some.experts[7, 1] = -1
    weights = some.weights.masked_fill(some.experts < 0, torch.nan)  # what nobody asks for
    out = fast.moe(some.x, some.experts, weights, some.w13, some.w2)
    told = exact(some._replace(weights=some.weights.masked_fill(some.experts < 0, 0.0)))
    assert (out[3] == 0).all() and error(out, told) < CLOSE[torch.float32]


def test_one_tokens_nan_is_its_own(device: torch.device) -> None:
    some = case(device, 20)
    some.x[4] = torch.nan
    out = fast.moe(*some)
    rest = [row for row in range(20) if row != 4]
    assert out[4].isnan().all() and error(out[rest], exact(some)[rest]) < CLOSE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_is_scaled_and_added(dtype: torch.dtype, device: torch.device) -> None:
    some = in_dtype(case(device, 9), dtype)
    residual = torch.randn(some.x.shape[1], 9, device=device).T.to(dtype)
    out = fast.moe(*some, residual=residual, scale=(3.5, 0.5))
    assert error(out, 3.5 * residual.double() + 0.5 * exact(some)) < CLOSE[dtype]


def test_rows_may_lie_apart(device: torch.device) -> None:
    some = case(device, 21)
    for x in (torch.cat([some.x, some.x], 1)[:, :48], some.x.T.contiguous().T):
        assert not x.is_contiguous() and torch.equal(fast.moe(*some._replace(x=x)), fast.moe(*some))
    slotted = (
        torch.stack([some.weights, some.weights], -1)[..., 0],
        torch.stack([some.experts, some.experts], -1)[..., 0],
    )
    assert torch.equal(fast.moe(*some._replace(weights=slotted[0], experts=slotted[1])), fast.moe(*some))


def gradients(op: Any, some: Case, *, learned: str = "x weights w13 w2", **more: Any) -> dict[str, Tensor]:
    """The output, and the gradient of each leaf that learns."""
    some = Case(*(t.clone().requires_grad_(name in learned.split()) for name, t in some._asdict().items()))
    out = op(*some, **more)
    (out.double() * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)).sum().backward()
    return {"out": out.detach(), **{name: t.grad for name, t in some._asdict().items() if t.grad is not None}}


@pytest.mark.parametrize(
    ("dtype", "each", "limit"),
    [(torch.float32, 1, 5e-6), (torch.float32, 100, 5e-6), (torch.bfloat16, 1, 1e-2), (torch.bfloat16, 1000, 1e-2)],
)
def test_gradients_equal_the_references(dtype: torch.dtype, each: int, limit: float, device: torch.device) -> None:
    some = in_dtype(case(device, 45, threshold=0.7), dtype)
    some = some._replace(experts=some.experts.masked_fill(some.experts == 1, -1))  # one that nobody asks
    mine = gradients(fast.moe, some, cut=fast.choose_cut(each * 4, 4, 6144, dtype, dtype))
    told = gradients(reference.moe, Case(*(t.double() if t.is_floating_point() else t for t in some)))
    told["weights"] = told["weights"].masked_fill(some.experts < 0, 0.0)
    for name, value in told.items():
        assert error(mine[name], value) < limit, name
    assert (mine["w13"][1] == 0).all() and (mine["w2"][1] == 0).all() and mine["w2"].dtype == dtype
    assert (mine["weights"][some.experts < 0] == 0).all() and mine["weights"].dtype == torch.float32


def test_sums_over_many_rows_are_split(device: torch.device) -> None:
    sent = (torch.arange(4500, device=device) % 5 == 0).long()
    made = plan(sent[:, None], 2, 64)
    right = torch.randn(4500, 16, device=device)
    left = torch.randn(len(made.order), 32, device=device)
    sums = outer(left, right, made, 1, 2, sorted_left=True)
    for expert in range(2):
        rows = slice(*(64 * made.starts[expert : expert + 2]).tolist())
        entries = made.order[rows]
        told = left[rows][entries >= 0].double().T @ right.double()[entries[entries >= 0]]
        assert error(sums[expert], told) < CLOSE[torch.float32], expert


def test_no_tokens_give_no_gradient(device: torch.device) -> None:
    found = gradients(fast.moe, case(device, 0))
    assert found["x"].shape == (0, 48) and (found["w13"] == 0).all() and (found["w2"] == 0).all()


@pytest.mark.parametrize("learned", ["x", "x w13", "x w2", "weights", "w13"])
def test_what_does_not_learn_costs_no_product(
    learned: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, calls = case(device, 20), []
    every = gradients(fast.moe, some)
    for name in ("product", "outer"):
        known = getattr(fast, name)
        monkeypatch.setattr(fast, name, lambda *args, _known=known, **more: calls.append(1) or _known(*args, **more))
    found = gradients(fast.moe, some, learned=learned)
    assert found.keys() == {"out", *learned.split()}
    assert all(torch.equal(found[name], every[name]) for name in found)
    assert len(calls) == 1 + len([name for name in learned.split() if name != "weights"])  # the one is the output's


def test_a_gradient_of_a_gradient_is_refused(device: torch.device) -> None:
    some = case(device, 5)
    (grad,) = torch.autograd.grad(
        fast.moe(some.x.requires_grad_(), *some[1:]).square().sum(), some.x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_autocast_multiplies_in_its_dtype(device: torch.device) -> None:
    some = case(device, 20)
    with torch.autocast(device.type, torch.bfloat16):
        mine = gradients(fast.moe, some)
    told = gradients(reference.moe, Case(*(t.double() if t.is_floating_point() else t for t in some)))
    assert mine["out"].dtype == torch.bfloat16 and mine["x"].dtype == mine["w13"].dtype == torch.float32
    for name, value in told.items():
        assert error(mine[name], value) < 2e-2, name


@pytest.mark.parametrize(("tokens", "dtype"), [(1, torch.bfloat16), (41, torch.bfloat16), (41, torch.float32)])
@pytest.mark.parametrize("each", [1, 20, 1000])
def test_int8_weights_are_widened(tokens: int, dtype: torch.dtype, each: int, device: torch.device) -> None:
    some = case(device, tokens, threshold=0.7)
    held = some._replace(x=some.x.to(dtype), w13=Int8.of(some.w13), w2=Int8.of(some.w2))
    out = fast.moe(*held, cut=fast.choose_cut(each * 4, 4, 6144, dtype, torch.int8))
    assert out.dtype == dtype and error(out, exact(held)) < CLOSE[dtype]


def test_bfloat16_weights_meet_a_float32_input_as_they_are(device: torch.device) -> None:
    some = in_dtype(case(device, 12), torch.bfloat16)
    some = some._replace(x=torch.randn(12, 48, device=device))
    assert error(fast.moe(*some), exact(some)) < CLOSE[torch.float32]


@pytest.mark.parametrize("each", [1, 20, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp8_rounds_rows_and_nothing_else(dtype: torch.dtype, each: int, device: torch.device) -> None:
    some = case(device, 41, threshold=0.7, width=144)
    some.x[2] = 0
    held = some._replace(x=some.x.to(dtype), w13=Fp8.of(some.w13), w2=Fp8.of(some.w2))
    out = fast.moe(*held, cut=fast.choose_cut(each * 4, 4, 6144, dtype, torch.float8_e4m3fn))
    assert out.dtype == dtype and (out[2] == 0).all()
    assert 1e-3 < error(out, exact(held)) < 5e-2  # rows of x and hidden rows keep four bits of a number
    assert error(out, exact_of_rounded(held)) < (1e-4 if dtype == torch.float32 else 8e-3)


def exact_of_rounded(some: Case) -> Tensor:
    """What fp8 means: each row of x, and of what an expert makes of it, rounded by its largest entry."""

    def rounded(rows: Tensor) -> Tensor:
        return Fp8.of(rows).dequantized(torch.float64)

    out = some.x.new_zeros(some.x.shape, dtype=torch.float64)
    for expert in range(len(some.w13)):
        gate, up = (rounded(some.x) @ some.w13[expert].dequantized(torch.float64).T).chunk(2, -1)
        hidden = rounded((torch.nn.functional.silu(gate) * up).to(some.x.dtype))
        share = (some.weights * (some.experts == expert)).sum(-1, keepdim=True)
        out += share * (hidden @ some.w2[expert].dequantized(torch.float64).T)
    return out


def test_narrow_weights_give_no_gradients(device: torch.device) -> None:
    some = case(device, 3)
    for kind in (Int8, Fp8):
        with pytest.raises(AssertionError, match="no gradients"):
            fast.moe(some.x.clone().requires_grad_(), some.experts, some.weights, kind.of(some.w13), kind.of(some.w2))
    for learner in (0, 1):
        x, residual = (some.x.clone().requires_grad_(learner == at) for at in (0, 1))
        with pytest.raises(AssertionError, match="residual"):
            fast.moe(x, *some[1:], residual=residual)


def test_what_no_kernel_takes_is_refused_by_name(device: torch.device) -> None:
    some = case(device, 3)
    with pytest.raises(ValueError, match="40 by 48"):
        fast.moe(some.x[:, :40], some.experts, some.weights, some.w13[..., :40], some.w2[:, :40])
    with pytest.raises(ValueError, match="48 by 24"):
        fast.moe(some.x, some.experts, some.weights, some.w13[:, :48], some.w2[..., :24])
    with pytest.raises(ValueError, match=r"x \[3, 48\] torch.float64"):
        fast.moe(*in_dtype(some, torch.float64))
    with pytest.raises(ValueError, match=r"bfloat16 by weights \[.*\] torch.float32"):
        fast.moe(some.x.bfloat16(), *some[1:])
