"""The linear map on a GPU where weights are narrower than the input: int8, or bfloat16 under the float32 head.

In and out as in reference.py. cuBLAS multiplies tensors of one dtype (linear/torch.py), and int8 weights by more rows
than `_MOST_ROWS`, for which they are widened once. Here weights are read as they lie, once for 16 to 128 rows of x, and
widened in registers. A float32 input is told as three bfloat16 numbers, which hold all of its 24 bits, so that matrix
units give the float32 product: at 3 products of a bfloat16 one, against 12 or more of a plain float32 one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.linear.torch import linear as same_dtype
from minimax_m1.kernels.quantized import Int8

_MOST_ROWS = 256  # of x in bfloat16 or float16 by int8: above, the matrix units are short of time and not memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Rows of x and of the weight in a tile, numbers of both a step, warps and pipeline stages."""

    tall: int
    wide: int
    deep: int
    warps: int
    stages: int


def choose_tiles(rows: int, count: int) -> Tiles:
    """For so many rows of x and of the weight.

    Where few rows meet a short weight, tiles are small so that all of the GPU reads; else they are wide, since each
    reads all of x from the second cache.
    """
    tall = min(128, max(16, triton.next_power_of_2(rows)))
    if tall <= 64 and (tall == 16 or count <= 16_384):
        return Tiles(tall=tall, wide=32 if count <= 16_384 else 64, deep=128, warps=4, stages=4)
    return Tiles(tall=tall, wide=128, deep=64, warps=8, stages=3)


@eager
def linear(x: Tensor, weight: Tensor | Int8, *, tiles: Tiles | None = None) -> Tensor:
    """x weightᵀ in x's dtype, [..., out]; without gradients where the weight is narrower than x.

    Raises:
        ValueError: a width that is not a multiple of 16, or dtypes that no kernel multiplies.
    """
    values = weight.values if isinstance(weight, Int8) else weight
    rows = x.numel() // max(1, x.shape[-1])
    if values.dtype is x.dtype or torch.is_autocast_enabled(x.device.type):
        return same_dtype(x, weight)
    if torch.is_grad_enabled() and (x.requires_grad or values.requires_grad):
        return same_dtype(x, weight)
    if isinstance(weight, Int8) and x.dtype is not torch.float32 and rows > _MOST_ROWS:
        return same_dtype(x, weight)
    count, width = values.shape
    if (x.dtype, values.dtype) not in _PAIRS or width % 16 or x.shape[-1] != width:
        raise ValueError(
            f"x {list(x.shape)} {x.dtype} by a weight {list(values.shape)} {values.dtype}: widths must be equal "
            "multiples of 16, x float32 by bfloat16 or int8, or a narrower x by int8"
        )
    assert values.is_contiguous()
    flat = x.reshape(rows, width)
    flat = flat if flat.stride(1) == 1 else flat.contiguous()
    out = x.new_empty(*x.shape[:-1], count)
    tiles = tiles or choose_tiles(rows, count)
    grid = triton.cdiv(count, tiles.wide), triton.cdiv(rows, tiles.tall)
    if rows and count:
        _product[grid](
            *(flat, values, weight.scales if isinstance(weight, Int8) else None, out),
            *(rows, count, width, flat.stride(0)),
            *(tiles.tall, tiles.wide, tiles.deep, x.dtype is torch.float32),
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return out


_PAIRS = (
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.int8),
    (torch.bfloat16, torch.int8),
    (torch.float16, torch.int8),
)


@triton.jit
def _product(
    x_ptr, w_ptr, scales_ptr, out_ptr, rows, count, width, stride,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    low = tl.bfloat16 if SPLIT else x_ptr.dtype.element_ty
    r = tl.program_id(1).to(tl.int64) * TALL + tl.arange(0, TALL)
    c = tl.program_id(0).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    k = tl.arange(0, DEEP)
    x_at = x_ptr + r[:, None] * stride + k
    w_at = w_ptr + c[None, :] * width + k[:, None]
    acc = tl.zeros([TALL, WIDE], tl.float32)
    for start in range(0, width, DEEP):
        inside = k < width - start
        x = tl.load(x_at + start, (r[:, None] < rows) & inside, 0.0)  # [TALL, DEEP]
        w = tl.load(w_at + start, (c[None, :] < count) & inside[:, None], 0).to(low)  # [DEEP, WIDE]
        if SPLIT:
            high = x.to(low)
            rest = x - high.to(tl.float32)
            middle = rest.to(low)
            acc = tl.dot((rest - middle.to(tl.float32)).to(low), w, acc)
            acc = tl.dot(middle, w, acc)
            acc = tl.dot(high, w, acc)
        else:
            acc = tl.dot(x, w, acc)
    if scales_ptr is not None:
        acc *= tl.load(scales_ptr + c, c < count, 0.0)
    out = out_ptr + r[:, None] * count + c
    tl.store(out, acc.to(out_ptr.dtype.element_ty), (r[:, None] < rows) & (c < count))
