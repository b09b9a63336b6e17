"""The linear map through torch's own operator. In and out as in reference.py.

A weight that torch cannot multiply as it is, int8 or narrower than x, is brought to x's dtype a few rows at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear as fused

from minimax_m1.kernels.quantized import Int8, dense

_ROWS = 16_384  # rows of a weight brought to another dtype at a time: 0.4 GB in float32 at M1's width


def linear(x: Tensor, weight: Tensor | Int8) -> Tensor:
    """x weightᵀ in x's dtype."""
    if isinstance(weight, Tensor) and (weight.dtype is x.dtype or torch.is_autocast_enabled(x.device.type)):
        return fused(x, weight)
    starts = range(0, max(len(weight), 1), _ROWS)
    parts = [fused(x, dense(weight[at : at + _ROWS], x.dtype)) for at in starts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
