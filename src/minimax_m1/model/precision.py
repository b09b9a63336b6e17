"""What stays precise where the rest does not: modules that keep dtypes in `.to(dtype)`, products outside autocast.

The router's weight and the decay slopes stay float32 in a bfloat16 model (reference: the published router is stored in
float32); int8 values and their scales are never converted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn


class KeepsFloat32(nn.Module):
    """`.to(dtype)` moves it between devices and to float64, but never below float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def guarded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.is_floating_point() and torch.finfo(moved.dtype).bits < 32:
                return tensor.to(moved.device)
            return moved

        super()._apply(guarded, recurse)
        return self


class KeepsDtypes(nn.Module):
    """`.to(dtype)` moves it between devices and converts nothing."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def guarded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(guarded, recurse)
        return self


def uncast(device: torch.device) -> AbstractContextManager[object]:
    """A block that autocast leaves alone; costs nothing to speak of where there is no autocast."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
