"""Mixture of experts on a GPU: sorted on the device, then two grouped products and a sum, with gradients.

In and out as in reference.py; with a residual, that and the experts' sum scaled and added, as a layer ends. Nothing
waits for the host, so that a CUDA graph holds it all. Weights are float32, bfloat16 or float16 tensors no wider than x;
`Int8`, widened in registers; or `Fp8`, which meets rows of x and of hidden activations rounded to fp8 too, each by its
own largest entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.fp8 import Fp8
from minimax_m1.kernels.gpu import FLOATS
from minimax_m1.kernels.moe.triton_grad import outer, pulled
from minimax_m1.kernels.moe.triton_plan import Plan, plan
from minimax_m1.kernels.moe.triton_products import Tiles, combine, gated, product, to_fp8
from minimax_m1.kernels.quantized import Int8

_NARROW = 512  # a model of this width keeps matrix units too short a time for large tiles to pay


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Rows in a block, and the tiles of the two products: one of `up` has its `outs` twice, for gate and up.

    Gradients of rows are cut as `down`.
    """

    rows: int
    up: Tiles
    down: Tiles


def choose_cut(entries: int, experts: int, width: int, x: torch.dtype, weight: torch.dtype) -> Cut:
    """How to cut the products of so many entries (T K) over so many experts of this model width.

    Where an expert has few rows its weights take longer to read than to multiply: small tiles, many bytes in flight.
    """
    each = -(-entries // experts)
    rows = 16 if each <= 8 else 32 if each <= 32 else 64 if each <= 128 or width <= _NARROW else 128
    fp8 = weight is torch.float8_e4m3fn
    if x is torch.float32 and not fp8:  # no matrix unit multiplies float32
        tiles = Tiles(outs=32, depth=32, warps=4, stages=3)
        return Cut(rows=min(rows, 64 if weight is x else 32), up=tiles, down=tiles)
    line = 128 if fp8 else 64
    if rows <= 32 and fp8:
        up, down = (Tiles(outs=64, depth=depth, warps=4, stages=4) for depth in (128, 256))
    elif rows <= 32 and weight is torch.int8:  # two warps: of four, two would widen what the others do
        up = Tiles(outs=32, depth=128, warps=2, stages=4)
        down = replace(up, depth=256) if rows == 16 else Tiles(outs=64, depth=128, warps=4, stages=4)
    elif rows == 16:
        up, down = (Tiles(outs=32, depth=depth, warps=4, stages=4) for depth in (128, 256))
    elif rows == 32:
        up, down = (Tiles(outs=64, depth=depth, warps=4, stages=4) for depth in (64, 128))
    elif rows == 64:
        up, down = (Tiles(outs=outs, depth=line, warps=4, stages=4) for outs in (64, 128))
    elif fp8:  # whose sums take twice the registers
        up, down = (Tiles(outs=outs, depth=line, warps=8, stages=4) for outs in (64, 128))
    else:
        up, down = (Tiles(outs=outs, depth=line, warps=8, stages=4) for outs in (128, 256))
    return Cut(rows=rows, up=up, down=down)


@eager
def moe(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    w13: Tensor | Int8 | Fp8,
    w2: Tensor | Int8 | Fp8,
    *,
    residual: Tensor | None = None,
    scale: tuple[float, float] = (1, 1),
    cut: Cut | None = None,
) -> Tensor:
    """Weighted sum of the chosen experts, [T, M]; with a residual [T, M], alpha residual + beta sum.

    `scale` is alpha and beta. `cut` is for those who measure; `choose_cut` chooses well.
    Gradients equal the reference's, but none goes through int8 or fp8 weights, nor to a residual.

    Raises:
        ValueError: widths that are not multiples of 16, or dtypes that no kernel multiplies.
    """
    held = isinstance(w13, Int8 | Fp8) or isinstance(w2, Int8 | Fp8)
    if torch.is_autocast_enabled(x.device.type) and isinstance(w13, Tensor) and isinstance(w2, Tensor):
        low = torch.get_autocast_dtype(x.device.type)
        x, w13, w2 = x.to(low), w13.to(low), w2.to(low)
    _check(x, experts, weights, w13, w2)
    values = w13 if isinstance(w13, Tensor) else w13.values
    cut = cut or choose_cut(experts.numel(), len(w13), x.shape[1], x.dtype, values.dtype)
    x, experts = x if x.stride(1) == 1 else x.contiguous(), experts.contiguous()
    leaves = (t for t in (x, weights, w13, w2, residual) if isinstance(t, Tensor))
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
        assert not held, "int8 and fp8 weights give no gradients"
        assert residual is None, "a residual gets no gradient"
        return _Grouped.apply(x, experts, weights, w13, w2, cut)  # type: ignore[no-any-return]
    order = plan(experts, len(w13), cut.rows)
    hidden, _ = _up(x, experts.shape[1], order, w13, cut, keep=False)
    entries = _down(hidden, weights, order, w2, cut, experts.numel())
    if residual is not None:
        assert residual.shape == x.shape, (residual.shape, x.shape)
        residual = residual if residual.stride(1) == 1 else residual.contiguous()
    return combine(entries, experts, residual, scale)


def _check(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8 | Fp8, w2: Tensor | Int8 | Fp8) -> None:
    count, width, inner = w2.shape
    assert x.shape == (len(experts), width) and experts.shape == weights.shape, (x.shape, experts.shape, weights.shape)
    assert w13.shape == (count, 2 * inner, width), (w13.shape, w2.shape)
    if width % 16 or inner % 16:
        raise ValueError(f"experts of {width} by {inner}: these kernels take multiples of 16")
    for weight in (w13, w2):
        values = weight if isinstance(weight, Tensor) else weight.values
        assert values.is_contiguous()
        narrow = values.dtype in FLOATS and torch.promote_types(values.dtype, x.dtype) is x.dtype
        if x.dtype not in FLOATS or not (narrow or isinstance(weight, Int8 | Fp8)):
            raise ValueError(
                f"x {list(x.shape)} {x.dtype} by weights {list(values.shape)} {values.dtype}: x is float32, bfloat16 "
                "or float16, and weights are no wider"
            )


def _up(
    x: Tensor, slots: int, order: Plan, w13: Tensor | Int8 | Fp8, cut: Cut, *, keep: bool
) -> tuple[Tensor, Tensor | None]:
    if isinstance(w13, Fp8):
        return gated(*to_fp8(x), slots, order, w13.values, w13.scales, cut.up, out=x.dtype, keep=keep)
    values, scales = (w13, None) if isinstance(w13, Tensor) else (w13.values, w13.scales)
    return gated(x, None, slots, order, values, scales, cut.up, out=x.dtype, keep=keep)


def _down(hidden: Tensor, weights: Tensor, order: Plan, w2: Tensor | Int8 | Fp8, cut: Cut, entries: int) -> Tensor:
    shares, dtype = weights.contiguous(), hidden.dtype
    if isinstance(w2, Fp8):
        rows, shrunk = to_fp8(hidden, order)
        return product(rows, shrunk, shares, order, w2.values, w2.scales, cut.down, entries=entries, out=dtype)
    values, scales = (w2, None) if isinstance(w2, Tensor) else (w2.values, w2.scales)
    return product(hidden, None, shares, order, values, scales, cut.down, entries=entries, out=dtype)


class _Grouped(torch.autograd.Function):
    """The sum with its gradients; keeps x, gate and up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, cut: Cut) -> Tensor:
        order = plan(experts, len(w13), cut.rows)
        hidden, kept = _up(x, experts.shape[1], order, w13, cut, keep=True)
        entries = _down(hidden, weights, order, w2, cut, experts.numel())
        ctx.save_for_backward(x, experts, weights, w13, w2, kept)
        ctx.plan, ctx.cut = order, cut
        return combine(entries, experts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, experts, weights, w13, w2, kept = ctx.saved_tensors
        needs_x, _, needs_weights, needs_w13, needs_w2, _ = ctx.needs_input_grad
        order, cut, slots, grad = ctx.plan, ctx.cut, experts.shape[1], grads[0].contiguous()
        shares = weights.contiguous()
        back = pulled(grad, experts, shares, order, w2, kept, cut.down, mixed=needs_w2)
        d_x = d_w13 = d_w2 = None
        if needs_x:
            turned = w13.transpose(1, 2)
            rows = product(back.hidden, None, None, order, turned, None, cut.down, entries=experts.numel(), out=x.dtype)
            d_x = combine(rows, experts)
        if needs_w13:
            d_w13 = outer(back.hidden, x, order, slots, len(w13), sorted_left=True)
        if back.mixed is not None:
            d_w2 = outer(grad, back.mixed, order, slots, len(w2), sorted_left=False)
        return d_x, None, back.shares.to(weights.dtype) if needs_weights else None, d_w13, d_w2, None
