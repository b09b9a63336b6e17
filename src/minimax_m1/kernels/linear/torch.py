"""The linear map through torch's own operator. In and out as in reference.py."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear as fused


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ."""
    return fused(x, weight)
