"""The head on a GPU: the library's products fill tiles of rows by tokens, and one pass over a tile does all else.

In and out as in reference.py. A tile is up to 16,384 tokens wide and has at most 2^27 float32 logits, 512 MB; tokens
are the outer loop. A kernel reads a tile once and carries each row's maximum, sums and likeliest token from tile to
tile; the backward works a tile out anew, and a kernel makes its gradient of it, in as much memory again.
bfloat16 is multiplied by tensor cores, where every product is exact, and added up in float32. Other dtypes are
multiplied in float32, as torch's `float32_matmul_precision` says.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS
from minimax_m1.kernels.head.reference import Scores

_WIDE = 16_384  # tokens of a tile
_TILE = 2**27  # most logits of a tile
_BLOCK = 4096  # logits that a program holds, 16 a lane


@eager
def logprobs(x: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """Scores of `targets` [R] int64, each below V, for x [R, M] and weight [V, M]; gradients equal the reference's.

    Scores are float32; gradients are float32 until they are rounded, once, to the dtype of what they are for.
    ValueError for a dtype that is not supported.
    """
    assert x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[1] and targets.shape == x.shape[:1]
    if x.dtype not in FLOATS or weight.dtype not in FLOATS:
        raise ValueError(
            f"a head of x {list(x.shape)} in {x.dtype} and weight {list(weight.shape)} in {weight.dtype} is not "
            "supported: float32, bfloat16 and float16 are"
        )
    return Scores(*_Scored.apply(x, weight, targets.contiguous()))


class _Scored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns, rows = _tiles(len(x), len(weight))
        kind = _product_dtype(x, weight)
        inputs = x.to(kind)
        top, total, mixed, chosen = x.new_empty(4, len(x), dtype=torch.float32).unbind()
        likeliest = torch.empty_like(targets)
        room = x.new_empty(_most(columns, rows), dtype=torch.float32)
        for column in columns:
            block = weight[column].to(kind)
            for row in rows:
                logits = _part(room, row, column)
                _multiply(inputs[row], block.T, logits)
                height, width = _block(logits)
                _score[(triton.cdiv(len(logits), height),)](
                    logits,
                    targets[row],
                    top[row],
                    total[row],
                    mixed[row],
                    chosen[row],
                    likeliest[row],
                    *logits.shape,
                    column.start,
                    FIRST=column.start == 0,
                    ROWS=height,
                    BLOCK=width,
                    num_warps=8,
                )
        log_total = total.log()
        log_sum, entropy, right = top + log_total, log_total - mixed / total, likeliest == targets
        kept = room if len(columns) == len(rows) == 1 and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(x, weight, targets, log_sum, kept)
        ctx.mark_non_differentiable(entropy, right)
        return chosen - log_sum, entropy, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of logits are two bfloat16 parts, the number and what rounding left of it, where products are
        bfloat16. Together they are 2^-17 off at most; tf32, as fast as two products, would be 2^-11, and one part alone
        2^-9, of numbers whose sum over the tokens is nothing: what all rows of the weight have in common would show."""
        x, weight, targets, log_sum, kept = ctx.saved_tensors
        columns, rows = _tiles(len(x), len(weight))
        kind, grad = _product_dtype(x, weight), grads[0].contiguous()
        inputs = x.to(kind)
        room = x.new_empty(_most(columns, rows), dtype=torch.float32) if kept is None else kept
        pulls = x.new_empty(2 if kind is torch.bfloat16 else 1, len(room), dtype=kind).unbind()
        for_x, for_weight = ctx.needs_input_grad[:2]
        d_x = x.new_empty(x.shape, dtype=torch.float32) if for_x else None
        d_weight = (torch.empty_like(weight) if rows else torch.zeros_like(weight)) if for_weight else None
        for column in columns:
            block = weight[column].to(kind)
            d_block = x.new_empty(block.shape, dtype=torch.float32) if for_weight else None
            for row in rows:
                logits, parts = _part(room, row, column), [_part(pull, row, column) for pull in pulls]
                if kept is None:
                    _multiply(inputs[row], block.T, logits)
                height, width = _block(logits)
                _pull[triton.cdiv(logits.shape[0], height), triton.cdiv(logits.shape[1], width)](
                    logits,
                    targets[row],
                    log_sum[row],
                    grad[row],
                    parts[0],
                    parts[1] if len(parts) > 1 else None,
                    *logits.shape,
                    column.start,
                    ROWS=height,
                    BLOCK=width,
                    num_warps=8,
                )
                for n, part in enumerate(parts):
                    if d_x is not None:
                        _multiply(part, block, d_x[row], more=column.start + n > 0)
                    if d_block is not None:
                        _multiply(part.T, inputs[row], d_block, more=row.start + n > 0)
            if d_weight is not None and d_block is not None and rows:
                d_weight[column] = d_block
        return None if d_x is None else d_x.to(x.dtype), d_weight, None


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """What is multiplied: bfloat16 where both are, else float32."""
    return torch.bfloat16 if x.dtype is weight.dtype is torch.bfloat16 else torch.float32


def _multiply(a: Tensor, b: Tensor, out: Tensor, *, more: bool = False) -> None:
    """out = a @ b, or out += a @ b where there is `more`; out is float32. Autocast leaves products in place alone."""
    beta = 1.0 if more else 0.0
    if a.is_cuda and a.dtype is torch.bfloat16:
        torch.addmm(out, a, b, out_dtype=torch.float32, beta=beta, out=out)
    else:
        out.addmm_(a.to(torch.float32), b.to(torch.float32), beta=beta)


def _tiles(rows: int, tokens: int) -> tuple[list[slice], list[slice]]:
    """The tokens and the rows of the tiles."""
    wide = min(tokens, _WIDE)
    tall = max(1, _TILE // wide)
    return (
        [slice(at, min(at + wide, tokens)) for at in range(0, tokens, wide)],
        [slice(at, min(at + tall, rows)) for at in range(0, rows, tall)],
    )


def _most(columns: list[slice], rows: list[slice]) -> int:
    """Logits of the largest tile, which is the first."""
    return columns[0].stop * rows[0].stop if rows else 0


def _part(room: Tensor, row: slice, column: slice) -> Tensor:
    """Room for one tile, [r, v]."""
    shape = row.stop - row.start, column.stop - column.start
    return room[: shape[0] * shape[1]].view(shape)


def _block(logits: Tensor) -> tuple[int, int]:
    """Rows and tokens that a program holds at once."""
    width = min(_BLOCK, max(16, triton.next_power_of_2(logits.shape[1])))
    return _BLOCK // width, width


@triton.jit
def _score(
    logits_ptr,
    targets_ptr,
    top_ptr,
    total_ptr,
    mixed_ptr,
    chosen_ptr,
    likeliest_ptr,
    rows,
    tokens,
    start,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Takes a tile in: the top logit so far, sums of exp(l - top) and of exp(l - top) (l - top), the target's logit,
    which stays NaN where a target is no token, and the first of the likeliest tokens."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    there = row < rows
    if FIRST:
        top = tl.full([ROWS], -1e38, tl.float32)  # below any logit, and yet a number
        total = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS], tl.float32)
        chosen = tl.full([ROWS], float("nan"), tl.float32)
        likeliest = tl.zeros([ROWS], tl.int64)
    else:
        top = tl.load(top_ptr + row, there, 0.0)
        total = tl.load(total_ptr + row, there, 0.0)
        mixed = tl.load(mixed_ptr + row, there, 0.0)
        chosen = tl.load(chosen_ptr + row, there, 0.0)
        likeliest = tl.load(likeliest_ptr + row, there, 0)
    target = tl.load(targets_ptr + row, there, -1) - start
    inside = (target >= 0) & (target < tokens)
    chosen = tl.where(inside, tl.load(logits_ptr + row * tokens + target, inside, 0.0), chosen)
    for at in tl.range(0, tokens, BLOCK):
        column = at + tl.arange(0, BLOCK)[None, :]  # [1, BLOCK]
        here = there[:, None] & (column < tokens)
        logits = tl.load(logits_ptr + row[:, None] * tokens + column, here, float("-inf"))
        best, place = tl.max(logits, 1, return_indices=True)
        likeliest = tl.where(best > top, start + at + place, likeliest)
        higher = tl.maximum(top, best)
        below = tl.where(here, logits - higher[:, None], 0.0)
        shares = tl.where(here, tl.exp(below), 0.0)
        shrunk = tl.exp(top - higher)
        mixed = shrunk * (mixed + (top - higher) * total) + tl.sum(shares * below, 1)
        total = shrunk * total + tl.sum(shares, 1)
        top = higher
    tl.store(top_ptr + row, top, there)
    tl.store(total_ptr + row, total, there)
    tl.store(mixed_ptr + row, mixed, there)
    tl.store(chosen_ptr + row, chosen, there)
    tl.store(likeliest_ptr + row, likeliest, there)


@triton.jit
def _pull(
    logits_ptr,
    targets_ptr,
    log_sum_ptr,
    grad_ptr,
    high_ptr,
    low_ptr,
    rows,
    tokens,
    start,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of a tile's logits, (1 at the target - p) grad, in one part or in two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]  # [1, BLOCK]
    there = row < rows
    here = there[:, None] & (column < tokens)
    log_sum = tl.load(log_sum_ptr + row, there, 0.0)[:, None]
    grad = tl.load(grad_ptr + row, there, 0.0)[:, None]
    target = (tl.load(targets_ptr + row, there, -1) - start)[:, None]
    place = row[:, None] * tokens + column  # [ROWS, BLOCK]
    logits = tl.load(logits_ptr + place, here, 0.0)
    pulled = (tl.where(column == target, 1.0, 0.0) - tl.exp(logits - log_sum)) * grad
    high = pulled.to(high_ptr.dtype.element_ty)
    tl.store(high_ptr + place, high, here)
    if low_ptr is not None:
        tl.store(low_ptr + place, (pulled - high.to(tl.float32)).to(high.dtype), here)
