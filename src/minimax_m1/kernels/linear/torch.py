"""The linear map through torch's own operator. In and out as in reference.py.

Dense weights narrower than x are brought to x's dtype a few rows at a time, and int8 weights multiply as
kernels/quantized.py says: inputs in bfloat16, or told in 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear as fused

from minimax_m1.kernels.quantized import Int8, product
from minimax_m1.kernels.scaled import dense

_ROWS = 16_384  # rows of a weight brought to another dtype at a time: 0.4 GB in float32 at M1's width


def linear(x: Tensor, weight: Tensor | Int8) -> Tensor:
    """x weightᵀ in x's dtype."""
    if isinstance(weight, Tensor) and (weight.dtype is x.dtype or torch.is_autocast_enabled(x.device.type)):
        return fused(x, weight)
    starts = range(0, max(len(weight), 1), _ROWS)
    parts = [_part(x, weight[at : at + _ROWS]) for at in starts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _part(x: Tensor, weight: Tensor | Int8) -> Tensor:
    if not isinstance(weight, Int8):
        return fused(x, dense(weight, x.dtype))
    out = x.new_empty(*x.shape[:-1], len(weight))
    product(x.reshape(-1, x.shape[-1]), weight, out.view(-1, len(weight)))
    return out
