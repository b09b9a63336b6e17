"""Int8 weights: whole numbers from -127 to 127 and one scale a row, which halve a bfloat16 weight.

In: a weight [..., out, in] in any real dtype. Out: `Int8`, which `ops.linear` and `ops.moe` take in place of a tensor.
Only weights are rounded; products and sums are float32, and inputs stay what they are. No gradient goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_MOST = 127  # -128 is left out, so that a row's two signs round alike


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """A weight as values * scales[..., None]: values int8 [..., out, in], scales float32 [..., out]."""

    values: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        assert self.values.dtype is torch.int8 and self.scales.dtype is torch.float32
        assert self.values.shape[:-1] == self.scales.shape, (self.values.shape, self.scales.shape)

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Rounds a weight to nearest (ties to even), each row by its largest entry; a row of zeros gets scale 1."""
        wide = weight.detach().to(torch.float32)
        most = wide.abs().amax(-1)
        scales = torch.where(most > 0, most / _MOST, 1.0)
        return cls((wide / scales[..., None]).round().clamp(-_MOST, _MOST).to(torch.int8), scales)

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
        return (self.values.to(wide) * self.scales[..., None].to(wide)).to(dtype)


def dense(weight: Tensor | Int8, dtype: torch.dtype) -> Tensor:
    """The weight as a tensor for inputs of this dtype: an `Int8`, or a narrower tensor, is brought to it."""
    if isinstance(weight, Int8):
        return weight.dequantized(dtype)
    return weight.to(dtype) if torch.promote_types(weight.dtype, dtype) is dtype else weight
