"""The experts' products: rows of one expert at a time against its weights, for the whole batch in one launch.

In: x, a `Plan`, stacked weights with their scales where they are int8 or fp8, `Tiles`. Out: hidden rows in the plan's
order, each entry's row in the tokens' order, the sum of a token's entries, and rows rounded to fp8. A tile of weights
stands on the left of every product and meets the rows as columns: 16 rows waste nothing of the matrix units, and int8
is widened in registers on its way. Sums are float32 and one program owns each tile, so that runs repeat to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.moe.triton_plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a product is cut: outputs a tile, inputs a step, row blocks that go together, warps, steps in flight."""

    outs: int
    depth: int
    group: int = 16
    warps: int
    stages: int

    def within(self, outs: int, width: int) -> Tiles:
        """The same, no larger than a product of so many outputs and inputs asks for."""
        outs, width = (max(32, 1 << (size - 1).bit_length()) for size in (outs, width))
        depth = min(self.depth, width)
        return replace(self, outs=min(self.outs, outs), depth=depth, stages=min(self.stages, 1 + width // depth))


def gated(
    x: Tensor, x_scales: Tensor | None, slots: int, plan: Plan, w13: Tensor, scales: Tensor | None, tiles: Tiles,
    *, out: torch.dtype, keep: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """silu(gate) * up of each sorted row, [R, F], for x [T, M] and w13 [E, 2F, M]; to `keep`, gate and up too, [R, 2F].

    Rows that fill a block up are zeros; those of blocks without an owner are not written.
    """
    rows, inner, width = len(plan.order), w13.shape[1] // 2, x.shape[1]
    hidden = x.new_empty(rows, inner, dtype=out)
    kept = hidden.new_empty(rows, 2 * inner) if keep else None
    tiles = tiles.within(inner, width)
    cut = triton.cdiv(inner, tiles.outs)
    if rows:
        _gated[(len(plan.owner) * cut,)](
            *(x, x_scales, plan.order, plan.owner, plan.starts, w13, scales, hidden, kept),
            *(width, inner, slots, x.stride(0), cut),
            **{"ROWS": plan.rows, "OUTS": tiles.outs, "DEPTH": tiles.depth, "GROUP": tiles.group},
            **{"EVEN": width % tiles.depth == 0, "num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    return hidden, kept


def product(
    rows: Tensor, row_scales: Tensor | None, shares: Tensor | None, plan: Plan, weight: Tensor, scales: Tensor | None,
    tiles: Tiles, *, entries: int, out: torch.dtype, slots: int | None = None,
) -> Tensor:  # fmt: skip
    """rows [R, in] by their expert's weight [E, outs, in] of any strides, each times its share: [T K, outs].

    With `slots`, K, there is a row a token, [T, in], and not a sorted one an entry. Dropped entries are not written.
    """
    _, outs, width = weight.shape
    result = rows.new_empty(entries, outs, dtype=out)
    tiles = tiles.within(outs, width)
    cut = triton.cdiv(outs, tiles.outs)
    if entries:
        _product[(len(plan.owner) * cut,)](
            *(rows, row_scales, shares, plan.order, plan.owner, plan.starts, weight, scales, result),
            *(width, outs, slots, *weight.stride(), cut),
            **{"ROWS": plan.rows, "OUTS": tiles.outs, "DEPTH": tiles.depth, "GROUP": tiles.group},
            **{"EVEN": width % tiles.depth == 0, "num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    return result


def combine(
    entries: Tensor, experts: Tensor, residual: Tensor | None = None, scale: tuple[float, float] = (1, 1)
) -> Tensor:
    """The sum of each token's entries [T K, M] that were not dropped, slot by slot; or alpha residual + beta sum."""
    tokens, slots = experts.shape
    width = entries.shape[1]
    out = entries.new_empty(tokens, width)
    columns = min(1024, triton.next_power_of_2(width))
    if tokens:
        _combine[(tokens, triton.cdiv(width, columns))](
            *(entries, experts, residual, out, width, 0 if residual is None else residual.stride(0)),
            *(float(scale[0]), float(scale[1]), slots, columns),
            num_warps=4,
        )
    return out


def to_fp8(x: Tensor, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """x [R, M] as float8_e4m3fn with one float32 scale a row: its largest entry becomes 448.

    With a plan, only rows of entries are written.
    """
    rows, width = x.shape
    values, scales = x.new_empty(rows, width, dtype=torch.float8_e4m3fn), x.new_empty(rows, dtype=torch.float32)
    columns = triton.next_power_of_2(width)
    if rows:
        _to_fp8[(rows,)](
            *(x, None if plan is None else plan.order, None if plan is None else plan.owner, values, scales),
            *(width, x.stride(0), 1 if plan is None else plan.rows, columns),
            num_warps=min(8, max(1, columns // 1024)),
        )
    return values, scales


@triton.jit
def place(owner_ptr, starts_ptr, cut, GROUP: tl.constexpr):
    """Which expert, row block and tile of outputs this program has. Expert -1: none.

    An expert's programs stand together, its tiles one after another, each for GROUP row blocks: what runs at one time
    shares weights in the second cache, and each weight is read once where the expert has few rows.
    """
    pid = tl.program_id(0)
    expert = tl.load(owner_ptr + pid // cut)
    first = tl.load(starts_ptr + expert, expert >= 0, 0)
    size = tl.load(starts_ptr + expert + 1, expert >= 0, 1) - first
    local = pid - first * cut
    band = local // (GROUP * cut)
    height = tl.minimum(size - band * GROUP, GROUP)
    local -= band * GROUP * cut
    return expert, first + band * GROUP + local % height, local // height


@triton.jit
def _widened(w, DTYPE: tl.constexpr):
    """Weights in the dtype of the rows that they meet."""
    if w.dtype == tl.int8:
        w = w.to(tl.float32)
    return w.to(DTYPE)


@triton.jit
def dot(w, x, acc):
    """acc + w x, in float32."""
    if x.dtype.is_fp8():  # Hopper's own sums of fp8 products have 14 bits: every 128 they are added to float32's
        acc = tl.dot(w, x, acc, max_num_imprecise_acc=128 if x.shape[0] > 128 else x.shape[0])
    elif x.dtype == tl.float32:
        acc = tl.dot(w, x, acc, input_precision="ieee")
    else:
        acc = tl.dot(w, x, acc)
    return acc


@triton.jit
def _gated(
    x_ptr, x_scales_ptr, order_ptr, owner_ptr, starts_ptr, w_ptr, scales_ptr, hidden_ptr, kept_ptr,
    width, inner, slots, stride, cut,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    expert, block, tile = place(owner_ptr, starts_ptr, cut, GROUP)
    if expert < 0:
        return
    r = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tile * OUTS + tl.arange(0, OUTS)
    k = tl.arange(0, DEPTH)
    entry = tl.load(order_ptr + r)
    valid, inside = entry >= 0, n < inner
    token = tl.maximum(entry, 0) // slots
    x_at = x_ptr + token.to(tl.int64)[None, :] * stride + k[:, None]  # [DEPTH, ROWS]
    w_at = w_ptr + expert.to(tl.int64) * (2 * inner * width) + n[:, None] * width + k  # [OUTS, DEPTH]
    up_at = w_at + inner * width
    gate = tl.zeros([OUTS, ROWS], tl.float32)
    up = tl.zeros([OUTS, ROWS], tl.float32)
    for start in range(0, width, DEPTH):
        x_in, w_in = valid[None, :], inside[:, None]
        if not EVEN:
            x_in, w_in = x_in & (k < width - start)[:, None], w_in & (k < width - start)
        x = tl.load(x_at + start, x_in, 0.0)
        gate = dot(_widened(tl.load(w_at + start, w_in, 0.0), x.dtype), x, gate)
        up = dot(_widened(tl.load(up_at + start, w_in, 0.0), x.dtype), x, up)
    if scales_ptr is not None:
        scales = scales_ptr + expert * (2 * inner) + n
        gate *= tl.load(scales, inside, 0.0)[:, None]
        up *= tl.load(scales + inner, inside, 0.0)[:, None]
    if x_scales_ptr is not None:
        shrunk = tl.load(x_scales_ptr + token, valid, 0.0)[None, :]
        gate *= shrunk
        up *= shrunk
    dtype = hidden_ptr.dtype.element_ty
    if kept_ptr is not None:
        at = kept_ptr + r[:, None] * (2 * inner) + n
        tl.store(at, tl.trans(gate).to(dtype), inside[None, :])
        tl.store(at + inner, tl.trans(up).to(dtype), inside[None, :])
    mixed = tl.trans(gate * tl.sigmoid(gate) * up)
    tl.store(hidden_ptr + r[:, None] * inner + n, mixed.to(dtype), inside[None, :])


@triton.jit
def _product(
    rows_ptr, row_scales_ptr, shares_ptr, order_ptr, owner_ptr, starts_ptr, w_ptr, scales_ptr, out_ptr,
    width, outs, slots, stride_e, stride_n, stride_k, cut,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    expert, block, tile = place(owner_ptr, starts_ptr, cut, GROUP)
    if expert < 0:
        return
    r = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tile * OUTS + tl.arange(0, OUTS)
    k = tl.arange(0, DEPTH)
    entry = tl.load(order_ptr + r)
    valid, inside = entry >= 0, n < outs
    source = r
    if slots is not None:
        source = (tl.maximum(entry, 0) // slots).to(tl.int64)
    x_at = rows_ptr + source[None, :] * width + k[:, None]  # [DEPTH, ROWS]
    w_at = w_ptr + expert.to(tl.int64) * stride_e + n[:, None] * stride_n + k * stride_k  # [OUTS, DEPTH]
    acc = tl.zeros([OUTS, ROWS], tl.float32)
    for start in range(0, width, DEPTH):
        x_in, w_in = valid[None, :], inside[:, None]
        if not EVEN:
            x_in, w_in = x_in & (k < width - start)[:, None], w_in & (k < width - start)
        x = tl.load(x_at + start, x_in, 0.0)
        acc = dot(_widened(tl.load(w_at + start * stride_k, w_in, 0.0), x.dtype), x, acc)
    if scales_ptr is not None:
        acc *= tl.load(scales_ptr + expert * outs + n, inside, 0.0)[:, None]
    share = tl.full([ROWS], 1.0, tl.float32)
    if shares_ptr is not None:
        share = tl.load(shares_ptr + entry, valid, 0.0).to(tl.float32)
    if row_scales_ptr is not None:
        share *= tl.load(row_scales_ptr + r, valid, 0.0)
    acc *= share[None, :]
    out = out_ptr + tl.maximum(entry, 0).to(tl.int64)[:, None] * outs + n
    tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), valid[:, None] & inside[None, :])


@triton.jit
def _combine(
    entries_ptr,
    experts_ptr,
    residual_ptr,
    out_ptr,
    width,
    stride,
    alpha,
    beta,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.zeros([COLUMNS], tl.float32)
    for slot in tl.static_range(SLOTS):
        end = tl.where(tl.load(experts_ptr + token * SLOTS + slot) >= 0, width, 0)
        total += tl.load(entries_ptr + (token * SLOTS + slot) * width + column, column < end, 0.0).to(tl.float32)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + token * stride + column, inside, 0.0).to(tl.float32)
        total = alpha * residual + beta * total
    tl.store(out_ptr + token * width + column, total.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _to_fp8(x_ptr, order_ptr, owner_ptr, out_ptr, scales_ptr, width, stride, rows, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if owner_ptr is not None:
        if tl.load(owner_ptr + row // rows) < 0:
            return
        if tl.load(order_ptr + row) < 0:
            return
    column = tl.arange(0, COLUMNS)
    inside = column < width
    x = tl.load(x_ptr + row * stride + column, inside, 0.0).to(tl.float32)
    most = tl.max(tl.abs(x), 0)
    scale = tl.where(most > 0, most / 448.0, 1.0)
    x = tl.minimum(tl.maximum(x / scale, -448.0), 448.0)
    tl.store(out_ptr + row * width + column, x.to(tl.float8e4nv), inside)
    tl.store(scales_ptr + row, scale)
