"""RMSNorm for one row or a few on a CPU. In and out as in reference.py.

Up to 32 rows in float32 or bfloat16 without gradients run compiled, on one thread; anything else is what torch.py
does well.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from minimax_m1.kernels.formats import BFLOAT16, FORMATS, array, compiles, dot, nearest, wide
from minimax_m1.kernels.norm.torch import add_rms_norm, gated_rms_norm
from minimax_m1.kernels.norm.torch import rms_norm as many_rows
from minimax_m1.kernels.ops import AddNorm, GatedNorm, Norm
from minimax_m1.kernels.threads import Kernel, as_number, numbers, real

_MOST_ROWS = 32


def compile_norms() -> tuple[Norm, AddNorm, GatedNorm]:
    """The op, compiled; alone, after a sum, and before a gate."""
    norm = _compile()
    return norm, partial(add_rms_norm, norm=norm), partial(gated_rms_norm, norm=norm)


def _compile() -> Norm:
    kernel = Kernel(_rows, 7)

    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.dim() != 2 or x.shape[0] > _MOST_ROWS or x.dtype is not weight.dtype or not compiles(x, weight):
            return many_rows(x, weight, eps)
        x = x.contiguous()
        rows, width = x.shape
        assert weight.shape == (width,), f"x {list(x.shape)} does not fit weight {list(weight.shape)}"
        out = torch.empty_like(x)
        kernel(0, FORMATS[x.dtype], x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, as_number(eps))
        return out

    return rms_norm


def _rows(data: Any) -> None:
    form, at_x, at_weight, at_out, rows, width, eps = numbers(data, 7)
    if form == BFLOAT16:
        normed(at_x, at_weight, at_out, rows, width, np.float32(real(eps)), np.uint16, np.uint16)
    else:
        normed(at_x, at_weight, at_out, rows, width, np.float32(real(eps)), np.float32, np.float32)


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def normed(
    at_x: int, at_weight: int, at_out: int, rows: int, width: int, eps: Any, kind: Any, weight_kind: Any
) -> None:
    """Rows [rows, width] of one kind, normed."""
    x, out = array(at_x, rows * width, kind), array(at_out, rows * width, kind)
    weight = array(at_weight, width, weight_kind)
    for row in range(rows):
        here, there = x[row * width : (row + 1) * width], out[row * width : (row + 1) * width]
        scale = np.float32(1 / np.sqrt(dot(here, here) / np.float32(width) + eps))
        for i in range(width):  # in bfloat16 the quotient is rounded before its product with the weight, as in torch
            there[i] = nearest(wide(nearest(wide(here[i]) * scale, kind)) * wide(weight[i]), kind)
