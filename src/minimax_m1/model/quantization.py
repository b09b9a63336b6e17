"""int8 weights inside a model: linear maps and experts that hold a byte a weight and a float32 scale a row.

In: a model that was built with floating-point weights, filled or on the meta device. Out: the same model with every
quantisable map swapped (model/names.py says which). Values and scales are buffers, so `.to`, `state_dict` and copies
work; there is nothing to train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8
from minimax_m1.model.layers import Linear
from minimax_m1.model.moe import Experts
from minimax_m1.model.names import quantizable, scale_of
from minimax_m1.model.precision import KeepsDtypes


class Int8Weights(KeepsDtypes):
    """Weights by name: values int8 as the buffer `name`, scales float32 as `name_scale`.

    `held` has the same tensors as `Int8`s, in order; they are made once, and anew where buffers are replaced, since a
    decode step of a small model would feel it.
    """

    def __init__(self, **weights: Int8) -> None:
        super().__init__()
        self._names = tuple(weights)
        for name, weight in weights.items():
            self.register_buffer(name, weight.values)
            self.register_buffer(scale_of(name), weight.scales)
        self._hold()

    def _hold(self) -> None:
        self.held = tuple(Int8(self.get_buffer(name), self.get_buffer(scale_of(name))) for name in self._names)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._hold()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._hold()


class Int8Linear(Int8Weights):
    """x [..., in] -> [..., out]; weight int8 [out, in], weight_scale float32 [out]."""

    def __init__(self, weight: Int8) -> None:
        super().__init__(weight=weight)

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.linear(x, self.held[0])


class Int8Experts(Int8Weights):
    """All experts of a layer: w13 int8 [E, 2F, M] with w13_scale [E, 2F], w2 int8 [E, M, F] with w2_scale [E, M]."""

    def __init__(self, w13: Int8, w2: Int8) -> None:
        super().__init__(w13=w13, w2=w2)

    def weights(self) -> tuple[Int8, ...]:
        """w13 and w2, as `Ops.moe` takes them."""
        return self.held


@torch.no_grad()
def quantize(model: nn.Module) -> None:
    """Swaps every quantisable map of a model for its int8 form, one after another; what is left asks no gradients."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear) and quantizable(f"{name}.weight"):
            model.set_submodule(name, Int8Linear(Int8.of(module.weight)))
        elif isinstance(module, Experts):
            model.set_submodule(name, Int8Experts(Int8.of(module.w13), Int8.of(module.w2)))
    model.requires_grad_(False)
