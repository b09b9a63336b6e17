"""`KeepsFloat32`: modules whose own numbers stay float32 when a model is moved to bfloat16.

The router's weight and the decay slopes need it (reference: the published router is stored in float32).
"""

from __future__ import annotations

from collections.abc import Callable
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
