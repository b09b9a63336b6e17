"""Softmax attention of several queries a sequence against keys in pages, where no library has a kernel for it: float32.

In: q [T, H, D] packed, pools of keys and values, a `BlockTable` that counts the new tokens too. Out: [T, H, D]. Keys
are read where they lie, once for a block of queries; masks are worked out in registers. Flash attention takes 16-bit
numbers alone, and torch's other kernels would need masks of queries x keys where keys are cached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS
from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.segments import Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Queries and keys of a tile, warps and pipeline stages."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


def choose_tiles(width: int, dtype: torch.dtype) -> Tiles:
    """For heads of `width` numbers: in float32, which has no matrix unit, what fits into registers."""
    if dtype is torch.float32:
        return Tiles(queries=64, keys=32, warps=8) if width <= 64 else Tiles(queries=32, keys=32, warps=8)
    return Tiles(queries=64, keys=64) if width <= 128 else Tiles(queries=32, keys=32)


@eager
def paged_prefill(
    q: Tensor, keys: Tensor, values: Tensor, table: BlockTable, segments: Segments, *, tiles: Tiles | None = None
) -> Tensor:
    """q [T, H, D]; keys and values [P, B, G, D], which may be strided alike; segments of the queries -> [T, H, D].

    Query i of a sequence with T_n new tokens of L_n sees keys 0 .. L_n - T_n + i. No gradient.

    Raises:
        ValueError: a dtype other than float32, bfloat16 and float16, or heads of no multiple of 16 up to 256 numbers.
    """
    (count, heads, width), (_, size, groups, _) = q.shape, keys.shape
    if q.dtype not in FLOATS or keys.dtype not in FLOATS or width % 16 or width > 256:
        raise ValueError(
            f"q {list(q.shape)} in {q.dtype} over pages of keys {list(keys.shape)} in {keys.dtype}: float32, bfloat16 "
            "and float16 are supported, and heads of a multiple of 16 up to 256"
        )
    assert keys.shape == values.shape and keys.stride() == values.stride() and keys.stride(3) == 1, keys.stride()
    assert len(table.pages) == len(segments) and table.pages.stride(1) == 1 and heads % groups == 0
    assert not (torch.is_grad_enabled() and q.requires_grad), "attention over pages gives no gradients"
    q, out = q.contiguous(), q.new_empty(q.shape)
    if count == 0:
        return out
    tiles = tiles or choose_tiles(triton.next_power_of_2(width), q.dtype)
    grid = triton.cdiv(max(segments.lengths), tiles.queries), heads, len(segments)
    _attend[grid](
        *(q, keys, values, out, table.pages, table.lengths, segments.starts(q.device)),
        *(table.pages.stride(0), *keys.stride()[:3], math.log2(math.e) / width**0.5),
        **{"H": heads, "G": groups, "D": width, "P": triton.next_power_of_2(width), "SIZE": size},
        ROWS=tiles.queries,
        TILE=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out


@triton.jit
def _attend(
    q, keys, values, out, pages, lengths, starts, table_stride, page_stride, token_stride, group_stride, scale,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Some queries of one head of one sequence."""
    PRECISION: tl.constexpr = (
        "ieee" if q.dtype.element_ty == tl.float32 else "tf32"
    )  # of 16-bit numbers it says nothing
    n, head = tl.program_id(2), tl.program_id(1)
    start = tl.load(starts + n).to(tl.int64)
    new = (tl.load(starts + n + 1) - start).to(tl.int32)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS  # the last queries, which see most, begin first
    if first < new:
        past = tl.load(lengths + n) - new
        rows, d, t = first + tl.arange(0, ROWS), tl.arange(0, P), tl.arange(0, TILE)
        real = (rows[:, None] < new) & (d[None, :] < D)  # [ROWS, P]
        place = ((start + rows)[:, None] * H + head) * D + d[None, :]
        query = tl.load(q + place, mask=real, other=0.0)
        most = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        mixed = tl.zeros((ROWS, P), tl.float32)
        last = past + tl.minimum(first + ROWS, new)
        for begin in range(0, last, TILE):
            at = begin + t
            page = tl.load(pages + n.to(tl.int64) * table_stride + at // SIZE, mask=at < last, other=0).to(tl.int64)
            within = page * page_stride + at % SIZE * token_stride + head // (H // G) * group_stride
            held = (at[:, None] < last) & (d[None, :] < D)  # [TILE, P]
            key = tl.load(keys + within[:, None] + d[None, :], mask=held, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale  # [ROWS, TILE]
            scores = tl.where((at[None, :] <= past + rows[:, None]) & (at[None, :] < last), scores, float("-inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            weights, fade = tl.exp2(scores - higher[:, None]), tl.exp2(most - higher)
            total = total * fade + tl.sum(weights, 1)
            value = tl.load(values + within[:, None] + d[None, :], mask=held, other=0.0).to(query.dtype)
            mixed = tl.dot(weights.to(query.dtype), value, mixed * fade[:, None], input_precision=PRECISION)
            most = higher
        tl.store(out + place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=real)
