"""RMSNorm through torch's own operator, alone and with what stands beside it. In and out as in reference.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import rms_norm as fused


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, statistics in float32 or better."""
    if x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64):
        return fused(x, weight.shape, weight, eps)
    return weight * fused(x.float(), weight.shape, None, eps).to(x.dtype)


def residual_sum(residual: Tensor, branch: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha residual + beta branch."""
    return torch.add(branch if beta == 1 else beta * branch, residual, alpha=alpha)


def add_rms_norm(
    residual: Tensor,
    branch: Tensor,
    alpha: float,
    beta: float,
    weight: Tensor,
    eps: float,
    *,
    norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm,
) -> tuple[Tensor, Tensor]:
    """x = alpha residual + beta branch, and x normed by this norm."""
    x = residual_sum(residual, branch, alpha, beta)
    return x, norm(x, weight, eps)


def gated_rms_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    eps: float,
    *,
    norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm,
) -> Tensor:
    """x normed by this norm, times sigmoid(gate)."""
    return norm(x, weight, eps) * torch.sigmoid(gate)
