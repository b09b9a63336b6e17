"""How compiled bodies read and write numbers: float32, bfloat16 and int8 in memory, float32 in registers.

In: addresses, and which format lies there: one of `FORMATS`, with a loop of
its own each. Out: arrays, sums of products in float32, and results rounded to nearest as torch rounds them; and the
curves 2^x and sigmoid, which run sixteen at a time as numba's own would not.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.threads import pointer

FLOAT32, BFLOAT16, INT8 = 0, 1, 2  # numba has no bfloat16: its bits are read as uint16
FORMATS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.int8: INT8}

_LOG2_E = 1.4426950408889634
TILE = 16  # rows of a weight that four inputs at a time go through: they stay in the second cache, inputs in the first


def compiles(x: Tensor, *weights: Tensor) -> bool:
    """Whether compiled bodies take these: x float32 or bfloat16 on a CPU, dense weights in x's format or a smaller one.

    All weights have one format.
    """
    least, form = FORMATS.get(x.dtype, INT8), FORMATS.get(weights[0].dtype, -1)
    if least == INT8 or form < least or torch.is_grad_enabled() or not x.is_cpu:
        return False
    for weight in weights:  # a loop, since `all` would cost a step of a small model 2% of its time
        if weight.dtype is not weights[0].dtype or not weight.is_cpu or not weight.is_contiguous():
            return False
    return True


def parts(weight: Tensor | Int8) -> tuple[Tensor, int]:
    """A weight's values, and the address of its scales, 0 where it has none."""
    if isinstance(weight, Int8):
        assert weight.scales.is_contiguous()
        return weight.values, weight.scales.data_ptr()
    return weight, 0


@intrinsic
def wide(_typing: Any, kind: Any) -> Any:
    """A number as float32, which holds all three formats exactly."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        (value,) = values
        bits, real = ir.IntType(32), ir.FloatType()
        if kind == types.float32:
            return value
        if kind == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(value, bits), bits(16)), real)
        assert kind == types.int8, kind
        return builder.sitofp(builder.sext(value, bits), real)

    return types.float32(kind), code


@intrinsic
def nearest(_typing: Any, _value: Any, kind: Any) -> Any:
    """A float32 number in a kind: np.float32 as it is, np.uint16 as the nearest bfloat16, ties to even."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        value, whole = values[0], ir.IntType(32)
        if kind.dtype == types.float32:
            return value
        assert kind.dtype == types.uint16, kind
        bits = builder.bitcast(value, whole)
        odd = builder.and_(builder.lshr(bits, whole(16)), whole(1))
        up = builder.lshr(builder.add(builder.add(bits, whole(0x7FFF)), odd), whole(16))
        nan = builder.fcmp_unordered("uno", value, value)
        return builder.trunc(builder.select(nan, whole(0x7FC0), up), ir.IntType(16))

    return kind.dtype(types.float32, kind), code


@njit
def array(address: int, count: int, kind: Any) -> Any:
    """`count` numbers in memory: kind np.float32, np.int8, or np.uint16 for bfloat16."""
    return carray(pointer(address), count, kind)


@njit
def store(address: int, form: int, index: int, value: Any) -> None:
    """Writes one number in float32, or rounded to bfloat16."""
    if form == BFLOAT16:
        array(address, index + 1, np.uint16)[index] = nearest(value, np.uint16)
    else:
        array(address, index + 1, np.float32)[index] = value


@njit
def row_of(rows: Any, index: int, width: int) -> Any:
    """One row of many, `width` numbers each."""
    return rows[index * width : (index + 1) * width]


@njit(fastmath={"contract", "reassoc"})
def dot(a: Any, b: Any) -> Any:
    """Sum of products of two rows of one length, each in its own format."""
    total = np.float32(0)
    for i in range(len(a)):
        total += wide(a[i]) * wide(b[i])
    return total


@njit(fastmath={"contract", "reassoc"})
def four_dots(w: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Products of one row with four others: it is read and widened once."""
    to_a = to_b = to_c = to_d = np.float32(0)
    for i in range(len(w)):
        value = wide(w[i])
        to_a += value * wide(a[i])
        to_b += value * wide(b[i])
        to_c += value * wide(c[i])
        to_d += value * wide(d[i])
    return to_a, to_b, to_c, to_d


@njit(fastmath={"contract", "reassoc"})
def eight_dots(v: Any, w: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Products of two rows with four others, which are read once for both."""
    va = vb = vc = vd = wa = wb = wc = wd = np.float32(0)
    for i in range(len(w)):
        one, other = wide(v[i]), wide(w[i])
        at_a, at_b, at_c, at_d = wide(a[i]), wide(b[i]), wide(c[i]), wide(d[i])
        va += one * at_a
        vb += one * at_b
        vc += one * at_c
        vd += one * at_d
        wa += other * at_a
        wb += other * at_b
        wc += other * at_c
        wd += other * at_d
    return (va, vb, vc, vd), (wa, wb, wc, wd)


@njit(fastmath={"contract", "reassoc"})
def exp2(x: Any) -> Any:
    """2 to the power of x, x at most 0, to 2e-7 of it."""
    x = np.float32(-126) if x < np.float32(-126) else x  # NaN stays NaN
    whole = np.floor(x + np.float32(0.5))
    f = x - whole  # in [-0.5, 0.5], where 2^f has this polynomial
    p = np.float32(1.535336188319500e-4)
    p = p * f + np.float32(1.339887440266574e-3)
    p = p * f + np.float32(9.618437357674640e-3)
    p = p * f + np.float32(5.550332471162809e-2)
    p = p * f + np.float32(2.402264791363012e-1)
    p = p * f + np.float32(6.931472028550421e-1)
    p = p * f + np.float32(1)
    # Adding 1.5 * 2^23 + 127 leaves whole + 127 in the lowest bits, which are then shifted to where an exponent lies.
    return p * np.int32(np.float32(whole + np.float32(12583039)).view(np.int32) << 23).view(np.float32)


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), to 4e-7 of it down to 1e-38. In numba's own model of errors each division is a branch."""
    less = exp2(-abs(x) * np.float32(_LOG2_E))
    return (np.float32(1) if x >= 0 else less) / (np.float32(1) + less)
