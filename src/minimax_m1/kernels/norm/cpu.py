"""RMSNorm for one row or a few on a CPU. In and out as in reference.py.

Up to 16 float32 rows without gradients run compiled, on one thread; anything else is what torch.py does well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimax_m1.kernels.norm.torch import rms_norm as many_rows
from minimax_m1.kernels.ops import Norm
from minimax_m1.kernels.threads import Kernel, as_number, dot, floats, numbers, real

_MOST_ROWS = 16


def compile_rms_norm() -> Norm:
    """The op, compiled."""
    kernel = Kernel(_rows, 6)

    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if (
            torch.is_grad_enabled()
            or x.dim() != 2
            or x.shape[0] > _MOST_ROWS
            or not (x.dtype is weight.dtype is torch.float32 and x.is_cpu and weight.is_contiguous())
        ):
            return many_rows(x, weight, eps)
        x = x.contiguous()
        rows, width = x.shape
        assert weight.shape == (width,), f"x {list(x.shape)} does not fit weight {list(weight.shape)}"
        out = torch.empty_like(x)
        kernel(0, x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, as_number(eps))
        return out

    return rms_norm


def _rows(data: Any) -> None:
    at_x, at_weight, at_out, rows, width, eps = numbers(data, 6)
    x, weight, out = floats(at_x, rows * width), floats(at_weight, width), floats(at_out, rows * width)
    for row in range(rows):
        here = x[row * width : (row + 1) * width]
        there = out[row * width : (row + 1) * width]
        scale = np.float32(1 / np.sqrt(dot(here, here) / np.float32(width) + np.float32(real(eps))))
        for i in range(width):
            there[i] = here[i] * scale * weight[i]
