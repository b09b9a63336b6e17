"""The linear map for one row or a few on a CPU: weights are read once, by all threads, at the speed of memory.

In and out as in reference.py. A few rows in float32 or bfloat16 without gradients run compiled, with weights in
float32, bfloat16 or int8, which are widened on the way; sums are float32. Anything else is what torch.py does well.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from minimax_m1.kernels.formats import (
    BFLOAT16,
    FLOAT32,
    FORMATS,
    INT8,
    TILE,
    array,
    compiles,
    dot,
    four_dots,
    parts,
    row_of,
    store,
)
from minimax_m1.kernels.linear.torch import linear as many_rows
from minimax_m1.kernels.ops import LinearMap
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.threads import Kernel, floats, numbers, share

_MOST_ROWS = {FLOAT32: 16, BFLOAT16: 4, INT8: 24}  # by the weight's format: above, torch is faster (measured)
_MOST_WIDENED = 32  # of float32 rows and bfloat16 weights, as in the head: torch would first widen every weight


def compile_linear() -> LinearMap:
    """The op, compiled."""
    kernel = Kernel(_rows, 10)

    def linear(x: Tensor, weight: Tensor | Int8) -> Tensor:
        values, at_scales = parts(weight)
        if x.dim() != 2 or not compiles(x, values):
            return many_rows(x, weight)
        form, x_form = FORMATS[values.dtype], FORMATS[x.dtype]
        most = _MOST_WIDENED if (x_form, form) == (FLOAT32, BFLOAT16) else _MOST_ROWS[form]
        if x.shape[0] > most:
            return many_rows(x, weight)
        x = x.contiguous()
        tokens, width = x.shape
        rows = values.shape[0]
        assert values.shape == (rows, width), f"x {list(x.shape)} does not fit weight {list(values.shape)}"
        out = x.new_empty(tokens, rows)
        read = x if tokens == 1 else x.float()  # widened once, not once a row of the weight
        kernel(
            tokens * rows * width,
            *(read.data_ptr(), FORMATS[read.dtype], values.data_ptr(), FORMATS[values.dtype], at_scales),
            *(out.data_ptr(), FORMATS[out.dtype], tokens, width, rows),
        )
        return out

    return linear


def _rows(data: Any) -> None:
    at_x, x_form, at_weight, form, at_scales, at_out, out_form, tokens, width, rows = numbers(data, 10)
    shape = tokens, width, rows
    if form == FLOAT32:
        products(at_x, at_weight, at_scales, at_out, out_form, shape, np.float32, np.float32)
    elif form == BFLOAT16:
        if x_form == FLOAT32:
            products(at_x, at_weight, at_scales, at_out, out_form, shape, np.float32, np.uint16)
        else:
            products(at_x, at_weight, at_scales, at_out, out_form, shape, np.uint16, np.uint16)
    elif x_form == FLOAT32:
        products(at_x, at_weight, at_scales, at_out, out_form, shape, np.float32, np.int8)
    else:
        products(at_x, at_weight, at_scales, at_out, out_form, shape, np.uint16, np.int8)


@njit
def products(
    at_x: int, at_weight: int, at_scales: int, at_out: int, out_form: int, shape: Any, x_kind: Any, kind: Any
) -> None:
    """out [tokens, rows] = x weightᵀ, this thread's share of the rows; `at_scales` is 0 where there are none."""
    tokens, width, rows = shape
    x, weight = array(at_x, tokens * width, x_kind), array(at_weight, rows * width, kind)
    scales = floats(at_scales, rows)
    first, stop = share(rows)
    for begin in range(first, stop, TILE):
        end = min(begin + TILE, stop)
        for token in range(0, tokens - 3, 4):
            a, b = row_of(x, token, width), row_of(x, token + 1, width)
            c, d = row_of(x, token + 2, width), row_of(x, token + 3, width)
            for row in range(begin, end):
                sums = four_dots(row_of(weight, row, width), a, b, c, d)
                scale = scales[row] if at_scales != 0 else np.float32(1)
                for i in range(4):
                    store(at_out, out_form, (token + i) * rows + row, sums[i] * scale)
        for token in range(tokens // 4 * 4, tokens):
            a = row_of(x, token, width)
            for row in range(begin, end):
                scale = scales[row] if at_scales != 0 else np.float32(1)
                store(at_out, out_form, token * rows + row, dot(row_of(weight, row, width), a) * scale)
