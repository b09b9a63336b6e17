"""Int8 weights: whole numbers from -127 to 127 and one scale a row, which halve a bfloat16 weight.

In: a weight [..., out, in] in any real dtype. Out: `Int8`, which `ops.linear` and `ops.moe` take in place of a tensor;
its product with many rows, where no weight is widened to float32; and the weight as a tensor, which is exact.
No gradient goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.scaled import Scaled, by_rows

_MOST = 127  # -128 is left out, so that a row's two signs round alike
_FINER = 254  # an input's rest goes from -1/2 to 1/2 of its step, and is told in so many parts of it
_ENTRIES = 2**18  # at a time: the next pass finds them in the second cache
_LEAST = 1e-30  # rows of smaller inputs are told in steps of this one, since a step must not become zero


@dataclass(frozen=True, slots=True, eq=False)
class Int8(Scaled):
    """A weight as values * scales[..., None]: values int8 [..., out, in], scales float32 [..., out]."""

    def __post_init__(self) -> None:
        Scaled.__post_init__(self)
        assert self.values.dtype is torch.int8

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Rounds a weight to nearest (ties to even), each row by its largest entry; a row of zeros gets scale 1."""
        values, scales = by_rows(weight, _MOST)
        return cls(values.round().clamp(-_MOST, _MOST).to(torch.int8), scales)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [..., out, in] as it is meant, rounded once to `dtype`.

        A narrow one is made some rows at a time on a CPU, so that nothing of float32 leaves the second cache: of a
        large weight at 2.5 times the speed. A GPU does it in one launch, and would wait for thousands.
        """
        wide = torch.promote_types(dtype, torch.float32)
        if dtype is wide:
            return self.values.to(wide).mul_(self.scales[..., None].to(wide))
        values, scales = self.values.flatten(0, -2), self.scales.flatten()[:, None]
        out = torch.empty(values.shape, dtype=dtype, device=self.device)
        if not values.is_cpu:
            return torch.mul(values, scales, out=out).view(self.shape)
        rows = max(1, _ENTRIES // max(1, values.shape[1]))
        for place, some, scale in zip(out.split(rows), values.split(rows), scales.split(rows), strict=True):
            place.copy_(some.to(wide).mul_(scale))
        return out.view(self.shape)


@eager
def product(x: Tensor, weight: Int8, out: Tensor) -> None:
    """x weightᵀ into out, for x [T, in] and out [T, rows] of one dtype.

    float32 on a CPU that multiplies bytes takes each row of x as two bytes a number (`_in_bytes`), with exact sums: off
    by 3e-5 of the norm, where rounding the weights cost 1e-2, and 2.3 times as fast as widening them. Anything else
    meets the weight in its own dtype.
    """
    assert not (torch.is_grad_enabled() and x.requires_grad), "int8 weights give no gradients"
    assert x.dtype is out.dtype and out.shape == (len(x), len(weight)) and x.shape[1] == weight.shape[1], x.shape
    bytewise = x.dtype is torch.float32 and x.is_cpu and _multiplies_bytes()
    # Of one number a row torch._int_mm would read the wrong ones (2.13): strides do not tell it which side is which.
    if not bytewise or x.shape[1] < 2 or weight.values.stride() != (x.shape[1], 1):
        torch.mm(x, weight.dequantized(x.dtype).T, out=out)
        return
    values, rows = weight.values.T, max(1, _ENTRIES // max(1, len(weight)))
    for some, place in zip(x.split(rows), out.split(rows), strict=True):
        step, whole, rest = _in_bytes(some)
        sums = torch._int_mm(whole, values).float()  # int32 holds 2^31 / 127^2 products: 133,000 a row
        sums.add_(torch._int_mm(rest, values).float(), alpha=1 / _FINER).mul_(step)
        torch.mul(sums, weight.scales, out=place)


def _in_bytes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, in] as step [T, 1] * (whole + rest / 254), two int8 [T, in]: off by 1/64,516 of a row's largest at most."""
    step = x.abs().amax(-1, keepdim=True).clamp_(min=_LEAST).div_(_MOST)
    scaled = torch.div(x, step, out=x.new_empty(x.shape))  # new: a row alone may have strides that mislead _int_mm
    whole = scaled.round()
    rest = scaled.sub_(whole).mul_(_FINER).round_()
    return step, whole.to(torch.int8), rest.to(torch.int8)


@cache
def _multiplies_bytes() -> bool:
    """Whether this CPU adds up products of bytes exactly and fast; older ones cut sums short, or are slow."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))
