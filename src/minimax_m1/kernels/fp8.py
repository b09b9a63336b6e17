"""Fp8 weights: float8_e4m3fn and one scale a row, which halve a bfloat16 weight and meet fp8 rows on matrix units.

In: a weight [..., out, in] in any real dtype. Out: `Fp8`, which moe/triton.py takes in place of a tensor on a GPU that
multiplies fp8, and its reference anywhere; and the weight as a tensor. No gradient goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from minimax_m1.kernels.scaled import Scaled, by_rows

_MOST = 448  # the largest number of float8_e4m3fn, which has no infinity


@dataclass(frozen=True, slots=True, eq=False)
class Fp8(Scaled):
    """A weight as values * scales[..., None]: values float8_e4m3fn [..., out, in], scales float32 [..., out]."""

    def __post_init__(self) -> None:
        Scaled.__post_init__(self)
        assert self.values.dtype is torch.float8_e4m3fn

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Rounds a weight to nearest (ties to even), each row's largest entry to 448; a row of zeros gets scale 1."""
        values, scales = by_rows(weight, _MOST)
        return cls(values.clamp(-_MOST, _MOST).to(torch.float8_e4m3fn), scales)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [..., out, in] as it is meant, rounded once to `dtype`."""
        wide = torch.promote_types(dtype, torch.float32)
        return self.values.to(wide).mul_(self.scales[..., None].to(wide)).to(dtype)
