"""The experts' gradients: back through the down product and SiLU, and into the weights.

In: the gradient of the output [T, M], a `Plan`, gate and up [R, 2F] as the forward kept them. Out: gradients of gate
and up, of the routing weights (from the hidden activations: no expert's output is kept), and of stacked weights
[E, P, Q], each a product over its expert's rows. Gradients of rows are `product`s of triton_products.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.gpu import MULTIPROCESSORS
from minimax_m1.kernels.moe.triton_plan import Plan
from minimax_m1.kernels.moe.triton_products import Tiles, dot, product

_AT_ONCE = 16  # rows, which every block holds a multiple of
_PROGRAMS = 2 * MULTIPROCESSORS  # sums over rows are split until there are so many


class Pulled(NamedTuple):
    """Gradients of gate and up [R, 2F]; hidden rows times their share [R, F]; the shares' gradients, float32 [T, K]."""

    hidden: Tensor
    mixed: Tensor | None
    shares: Tensor


def pulled(
    grad: Tensor, experts: Tensor, shares: Tensor, plan: Plan, w2: Tensor, kept: Tensor, tiles: Tiles, *, mixed: bool
) -> Pulled:
    """grad [T, M] back to what `gated` kept; with `mixed`, also what the gradient of w2 [E, M, F] meets.

    Rows that fill a block up are zeros; those of blocks without an owner are not written.
    """
    entries, inner = experts.numel(), w2.shape[2]
    turned = w2.transpose(1, 2)
    d_mixed = product(
        grad, None, None, plan, turned, None, tiles, entries=entries, out=kept.dtype, slots=experts.shape[1]
    )
    hidden = torch.empty_like(kept)
    again = kept.new_empty(len(kept), inner) if mixed else None
    d_shares = kept.new_zeros(experts.shape, dtype=torch.float32)
    if entries:
        _pulled[(len(plan.order) // _AT_ONCE,)](
            *(d_mixed, shares, plan.order, plan.owner, kept, hidden, again, d_shares),
            *(inner, plan.rows // _AT_ONCE, _AT_ONCE, min(128, triton.next_power_of_2(inner))),
            num_warps=4,
        )
    return Pulled(hidden, again, d_shares)


def outer(left: Tensor, right: Tensor, plan: Plan, slots: int, count: int, *, sorted_left: bool) -> Tensor:
    """The sum over each expert's rows of left rightᵀ, [E, P, Q] in the dtype of both; zeros without rows.

    One side is sorted [R, .], the other has a row a token [T, .].
    """
    high, wide = left.shape[1], right.shape[1]
    accurate = left.dtype is torch.float32
    most = 32 if accurate else 128
    tall, broad = (min(most, max(16, triton.next_power_of_2(size))) for size in (high, wide))
    tiles = count * triton.cdiv(high, tall) * triton.cdiv(wide, broad)
    # Each part has at least 1,024 rows where experts are used alike, so that its sum costs little beside them.
    parts = max(1, min(_PROGRAMS // tiles, len(plan.order) // count // 1024, 32))
    sums = left.new_empty(parts, count, high, wide, dtype=left.dtype if parts == 1 else torch.float32)
    _outer[(tiles, parts)](
        *(left, right, plan.order, plan.starts, sums, high, wide, slots, count),
        *(parts, sorted_left, plan.rows, tall, broad, min(plan.rows, 64)),
        num_warps=4,
        num_stages=3,
    )
    return sums[0] if parts == 1 else sums.sum(0).to(left.dtype)


@triton.jit
def _pulled(
    d_mixed_ptr, shares_ptr, order_ptr, owner_ptr, kept_ptr, hidden_ptr, mixed_ptr, d_shares_ptr,
    inner, parts, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Through SiLU and the product with up, some rows of one expert; `parts` of them are a block."""
    if tl.load(owner_ptr + tl.program_id(0) // parts) < 0:
        return
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    entry = tl.load(order_ptr + r)
    valid = entry >= 0
    share = tl.load(shares_ptr + entry, valid, 0.0).to(tl.float32)[:, None]
    d_at = d_mixed_ptr + tl.maximum(entry, 0).to(tl.int64)[:, None] * inner
    kept_at, hidden_at = kept_ptr + r[:, None] * (2 * inner), hidden_ptr + r[:, None] * (2 * inner)
    dtype = hidden_ptr.dtype.element_ty
    d_share = tl.zeros([ROWS], tl.float32)
    for start in range(0, inner, COLUMNS):
        n = (start + tl.arange(0, COLUMNS))[None, :]
        inside = n < inner
        here = valid[:, None] & inside
        d_mixed = tl.load(d_at + n, here, 0.0).to(tl.float32)  # [ROWS, COLUMNS]
        gate = tl.load(kept_at + n, here, 0.0).to(tl.float32)
        up = tl.load(kept_at + inner + n, here, 0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        act = gate * sigmoid
        d_share += tl.sum(d_mixed * act * up, 1)
        d_mixed *= share
        tl.store(hidden_at + n, (d_mixed * up * (sigmoid + act * (1 - sigmoid))).to(dtype), inside)
        tl.store(hidden_at + inner + n, (d_mixed * act).to(dtype), inside)
        if mixed_ptr is not None:
            tl.store(mixed_ptr + r[:, None] * inner + n, (act * up * share).to(dtype), inside)
    tl.store(d_shares_ptr + entry, d_share, valid)


@triton.jit
def _outer(
    left_ptr, right_ptr, order_ptr, starts_ptr, out_ptr, high, wide, slots, count,
    PARTS: tl.constexpr, SORTED_LEFT: tl.constexpr, ROWS: tl.constexpr,
    TALL: tl.constexpr, BROAD: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    tall, broad = tl.cdiv(high, TALL), tl.cdiv(wide, BROAD)
    pid = tl.program_id(0)
    expert, tile = pid // (tall * broad), pid % (tall * broad)
    p = tile % tall * TALL + tl.arange(0, TALL)
    q = tile // tall * BROAD + tl.arange(0, BROAD)
    first = tl.load(starts_ptr + expert)
    steps = (tl.load(starts_ptr + expert + 1) - first) * (ROWS // STEP)
    each = tl.cdiv(steps, PARTS)
    begin = tl.program_id(1) * each
    end = tl.minimum(begin + each, steps)
    acc = tl.zeros([TALL, BROAD], tl.float32)
    for step in range(begin, end):
        r = first.to(tl.int64) * ROWS + step * STEP + tl.arange(0, STEP)
        entry = tl.load(order_ptr + r)
        token = (tl.maximum(entry, 0) // slots).to(tl.int64)
        valid = (entry >= 0)[:, None]
        a = tl.load(left_ptr + (r if SORTED_LEFT else token)[:, None] * high + p, valid & (p < high), 0.0)
        b = tl.load(right_ptr + (token if SORTED_LEFT else r)[:, None] * wide + q, valid & (q < wide), 0.0)
        acc = dot(tl.trans(a), b, acc)  # [STEP, TALL] and [STEP, BROAD]
    out = out_ptr + (tl.program_id(1).to(tl.int64) * count + expert) * high * wide
    inside = (p < high)[:, None] & (q < wide)
    tl.store(out + p[:, None] * wide + q, acc.to(out_ptr.dtype.element_ty), inside)
