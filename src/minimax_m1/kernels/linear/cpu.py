"""The linear map for one row or a few on a CPU: weights are read once, by all threads, at the speed of memory.

In and out as in reference.py. Up to 8 float32 rows without gradients run compiled; anything else is what torch.py
does well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimax_m1.kernels.linear.torch import linear as many_rows
from minimax_m1.kernels.ops import LinearMap
from minimax_m1.kernels.threads import Kernel, dot, floats, numbers, share

_MOST_ROWS = 8  # measured: twice torch's speed at 1 to 8


def compile_linear() -> LinearMap:
    """The op, compiled."""
    kernel = Kernel(_rows, 6)

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        if (
            torch.is_grad_enabled()
            or x.dim() != 2
            or x.shape[0] > _MOST_ROWS
            or not (x.dtype is weight.dtype is torch.float32 and x.is_cpu and weight.is_contiguous())
        ):
            return many_rows(x, weight)
        x = x.contiguous()
        tokens, width = x.shape
        rows = weight.shape[0]
        assert weight.shape == (rows, width), f"x {list(x.shape)} does not fit weight {list(weight.shape)}"
        out = x.new_empty(tokens, rows)
        kernel(tokens * rows * width, x.data_ptr(), weight.data_ptr(), out.data_ptr(), tokens, width, rows)
        return out

    return linear


def _rows(data: Any) -> None:
    at_x, at_weight, at_out, tokens, width, rows = numbers(data, 6)
    x, weight, out = floats(at_x, tokens * width), floats(at_weight, rows * width), floats(at_out, tokens * rows)
    first, stop = share(rows)
    for row in range(first, stop):
        w = weight[row * width : (row + 1) * width]
        for token in range(tokens):
            out[token * rows + row] = dot(w, x[token * width : (token + 1) * width])
