"""A linear map without bias, said plainly. In: x [..., in], weight [out, in]. Out: [..., out].

The weight may be int8 with scales, or narrower than x: it stands for the numbers it holds, in x's dtype.
"""

from __future__ import annotations

from torch import Tensor

from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.scaled import dense


def linear(x: Tensor, weight: Tensor | Int8) -> Tensor:
    """x weightᵀ."""
    return x @ dense(weight, x.dtype).T
