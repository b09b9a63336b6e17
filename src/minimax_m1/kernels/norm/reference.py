"""RMSNorm said plainly, alone and with what stands beside it: statistics in float32 or better, cast back, then the
weight in the input's dtype.

In: x [..., M], weight [M]. Out: [..., M] in x's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_rms_norm(
    residual: Tensor, branch: Tensor, alpha: float, beta: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x = alpha residual + beta branch, and x normed."""
    x = alpha * residual + beta * branch
    return x, rms_norm(x, weight, eps)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x normed, times sigmoid(gate), of x's shape."""
    return rms_norm(x, weight, eps) * torch.sigmoid(gate)
