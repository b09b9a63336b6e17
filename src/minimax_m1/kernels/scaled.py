"""`Scaled`: a weight told in narrow numbers and one float32 scale a row; int8 (quantized.py) and fp8 (fp8.py) are two.

In: values [..., out, in] and scales [..., out]. Out: what all kinds know of themselves, and what `dense` makes of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(ABC):
    """A weight as values * scales[..., None]: values [..., out, in], scales float32 [..., out]."""

    values: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        assert self.scales.dtype is torch.float32
        assert self.values.shape[:-1] == self.scales.shape, (self.values.shape, self.scales.shape)

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

    @abstractmethod
    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [..., out, in] as it is meant, rounded once to `dtype`."""


def by_rows(weight: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """A weight over its scales, in float32, and the scales: each row's largest entry is `most`; zeros get scale 1."""
    wide = weight.detach().to(torch.float32)
    largest = wide.abs().amax(-1)
    scales = torch.where(largest > 0, largest / most, 1.0)
    return wide / scales[..., None], scales


def dense(weight: Tensor | Scaled, dtype: torch.dtype) -> Tensor:
    """The weight as a tensor for inputs of this dtype: a `Scaled`, or a narrower tensor, is brought to it."""
    if isinstance(weight, Scaled):
        return weight.dequantized(dtype)
    return weight.to(dtype) if torch.promote_types(weight.dtype, dtype) is dtype else weight
