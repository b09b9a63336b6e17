"""Fp8 weights: float8_e4m3fn and one scale a row, which halve a bfloat16 weight and meet fp8 rows on matrix units.

In: a weight [..., out, in] in any real dtype. Out: `Fp8`, which moe/triton.py takes in place of a tensor on a GPU that
multiplies fp8, and its reference anywhere; and the weight as a tensor. No gradient goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_MOST = 448  # the largest number of float8_e4m3fn, which has no infinity


@dataclass(frozen=True, slots=True, eq=False)
class Fp8:
    """A weight as values * scales[..., None]: values float8_e4m3fn [..., out, in], scales float32 [..., out]."""

    values: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        assert self.values.dtype is torch.float8_e4m3fn and self.scales.dtype is torch.float32
        assert self.values.shape[:-1] == self.scales.shape, (self.values.shape, self.scales.shape)

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Rounds a weight to nearest (ties to even), each row's largest entry to 448; a row of zeros gets scale 1."""
        wide = weight.detach().to(torch.float32)
        most = wide.abs().amax(-1)
        scales = torch.where(most > 0, most / _MOST, 1.0)
        return cls((wide / scales[..., None]).clamp(-_MOST, _MOST).to(torch.float8_e4m3fn), scales)

    @property
    def shape(self) -> torch.Size:
        """The weight's shape, [..., out, in]."""
        return self.values.shape

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice) -> Self:
        """A part of the first dimension, as a view: one expert of a stack, or some rows."""
        return type(self)(self.values[index], self.scales[index])

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [..., out, in] as it is meant, rounded once to `dtype`."""
        wide = torch.promote_types(dtype, torch.float32)
        return self.values.to(wide).mul_(self.scales[..., None].to(wide)).to(dtype)
