"""A linear map without bias, said plainly. In: x [..., in], weight [out, in]. Out: [..., out]."""

from __future__ import annotations

from torch import Tensor


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ."""
    return x @ weight.T
