"""RMSNorm through torch's own operator. In and out as in reference.py."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm as fused


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, statistics in float32 or better."""
    if x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64):
        return fused(x, weight.shape, weight, eps)
    return weight * fused(x.float(), weight.shape, None, eps).to(x.dtype)
