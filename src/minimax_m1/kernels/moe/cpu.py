"""Mixture of experts for one token or a few on a CPU: each kept expert's weights are read once, by all threads.

In and out as in reference.py. A few tokens in float32 or bfloat16 without gradients run compiled, with weights in
float32, bfloat16 or int8: both products in one region, with a barrier between them, four tokens of an expert at a time.
Sums, and what lies between the products, are float32. Anything else is what torch.py does well.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from minimax_m1.kernels.formats import (
    BFLOAT16,
    FLOAT32,
    FORMATS,
    INT8,
    TILE,
    array,
    compiles,
    dot,
    eight_dots,
    four_dots,
    parts,
    row_of,
    sigmoid,
)
from minimax_m1.kernels.moe.torch import moe as many_tokens
from minimax_m1.kernels.ops import MoE
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.threads import Kernel, barrier, floats, integers, numbers, share

_MOST_TOKENS = {FLOAT32: 64, BFLOAT16: 48, INT8: 64}  # by the weights' format: above, torch is faster (measured)


def compile_moe() -> MoE:
    """The op, compiled."""
    kernel = Kernel(_experts, 17)

    def moe(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
        tokens, slots = experts.shape
        (first, at_scales13), (second, at_scales2) = parts(w13), parts(w2)
        if (
            not compiles(x, first, second)
            or tokens > _MOST_TOKENS[FORMATS[first.dtype]]
            or weights.dtype not in (torch.float32, x.dtype)
        ):
            return many_tokens(x, experts, weights, w13, w2)
        read, experts, weights = x.float().contiguous(), experts.contiguous(), weights.float().contiguous()
        count, width, inner = second.shape
        assert x.shape == (tokens, width) and first.shape == (count, 2 * inner, width)
        assert weights.shape == experts.shape and (at_scales13 == 0) == (at_scales2 == 0)
        out = torch.empty_like(read)
        threads = torch.get_num_threads()
        room = read.new_empty(tokens * slots * (2 * threads + 2 * inner))  # int64 numbers first, then float32
        at_groups = room.data_ptr()
        kernel(
            3 * tokens * slots * inner * width,
            *(t.data_ptr() for t in (read, experts, weights, first, second, out)),
            *(at_groups, at_groups + 8 * threads * tokens * slots, at_scales13, at_scales2, FORMATS[first.dtype]),
            *(tokens, slots, count, width, inner, threads),
        )
        return out.to(x.dtype)

    return moe


def _experts(data: Any) -> None:
    given = numbers(data, 17)
    at_x, at_experts, at_weights, at_w13, at_w2, at_out, at_groups, at_act = given[:8]
    at_scales13, at_scales2, form = given[8:11]
    tokens, slots, count, width, inner, threads = given[11:]
    thread, _ = share(threads)
    experts, weights = integers(at_experts, tokens * slots), floats(at_weights, tokens * slots)
    group = integers(at_groups + 8 * thread * tokens * slots, tokens * slots)
    into, outof = (at_x, at_w13, at_scales13, at_act), (at_act, at_w2, at_scales2, at_out)
    both_products(given, into, outof, experts, weights, group, form, (slots, count, width, inner))


@njit
def both_products(
    given: Any, into: Any, outof: Any, experts: Any, weights: Any, group: Any, form: int, sizes: Any
) -> None:
    """The weighted sum, this thread's columns of it; experts and weights [T * K], `group` room for as many numbers."""
    slots, count, width, inner = sizes
    if form == FLOAT32:
        _first(into, experts, group, slots, count, width, inner, np.float32)
        barrier(given)
        _second(outof, experts, weights, group, slots, count, width, inner, np.float32)
    elif form == BFLOAT16:
        _first(into, experts, group, slots, count, width, inner, np.uint16)
        barrier(given)
        _second(outof, experts, weights, group, slots, count, width, inner, np.uint16)
    else:
        _first(into, experts, group, slots, count, width, inner, np.int8)
        barrier(given)
        _second(outof, experts, weights, group, slots, count, width, inner, np.int8)


@njit
def _first(at: Any, experts: Any, group: Any, slots: int, count: int, width: int, inner: int, kind: Any) -> None:
    """act [T * K, F] = silu(w1 x) * w3 x, this thread's rows of each w1 and w3; behind it lies room for w3 x."""
    at_x, at_w13, at_scales, at_act = at
    x, act = floats(at_x, len(experts) // slots * width), floats(at_act, len(experts) * inner)
    third = floats(at_act + 4 * len(experts) * inner, len(experts) * inner)
    w13, scales = array(at_w13, count * 2 * inner * width, kind), floats(at_scales, count * 2 * inner)
    first, stop = share(inner)
    for expert in range(count):
        size, base = _sent_to(expert, experts, group), expert * 2 * inner
        for begin in range(first, stop if size else first, TILE):
            end = min(begin + TILE, stop)
            for i in range(0, size - 3, 4):
                a, b = row_of(x, group[i] // slots, width), row_of(x, group[i + 1] // slots, width)
                c, d = row_of(x, group[i + 2] // slots, width), row_of(x, group[i + 3] // slots, width)
                for f in range(begin, end):
                    w1, w3 = row_of(w13, base + f, width), row_of(w13, base + inner + f, width)
                    gates, ups = eight_dots(w1, w3, a, b, c, d)
                    scale1, scale3 = _two(scales, at_scales, base + f, inner)
                    for j in range(4):
                        at_f = group[i + j] * inner + f
                        act[at_f], third[at_f] = gates[j] * scale1, ups[j] * scale3
            for i in range(size // 4 * 4, size):
                a = row_of(x, group[i] // slots, width)
                for f in range(begin, end):
                    gate, up = dot(row_of(w13, base + f, width), a), dot(row_of(w13, base + inner + f, width), a)
                    scale1, scale3 = _two(scales, at_scales, base + f, inner)
                    at_f = group[i] * inner + f
                    act[at_f], third[at_f] = gate * scale1, up * scale3
        for i in range(size):
            _gate(act, third, group[i] * inner + first, group[i] * inner + stop)


@njit
def _second(
    at: Any, experts: Any, weights: Any, group: Any, slots: int, count: int, width: int, inner: int, kind: Any
) -> None:
    """out [T, M] = the weighted sum of w2 act, this thread's rows of each w2."""
    at_act, at_w2, at_scales, at_out = at
    tokens = len(experts) // slots
    act, out = floats(at_act, len(experts) * inner), floats(at_out, tokens * width)
    w2, scales = array(at_w2, count * width * inner, kind), floats(at_scales, count * width)
    first, stop = share(width)
    for token in range(tokens):
        out[token * width + first : token * width + stop] = 0
    for expert in range(count):
        size, base = _sent_to(expert, experts, group), expert * width
        for begin in range(first, stop if size else first, TILE):
            end = min(begin + TILE, stop)
            for i in range(0, size - 3, 4):
                a, b = row_of(act, group[i], inner), row_of(act, group[i + 1], inner)
                c, d = row_of(act, group[i + 2], inner), row_of(act, group[i + 3], inner)
                for m in range(begin, end):
                    sums = four_dots(row_of(w2, base + m, inner), a, b, c, d)
                    scale = scales[base + m] if at_scales != 0 else np.float32(1)
                    for j in range(4):
                        slot = group[i + j]
                        out[slot // slots * width + m] += weights[slot] * (sums[j] * scale)
            for i in range(size // 4 * 4, size):
                slot = group[i]
                a = row_of(act, slot, inner)
                for m in range(begin, end):
                    scale = scales[base + m] if at_scales != 0 else np.float32(1)
                    out[slot // slots * width + m] += weights[slot] * (dot(row_of(w2, base + m, inner), a) * scale)


@njit
def _sent_to(expert: int, experts: Any, group: Any) -> int:
    """Which slots (token * K + place) go to an expert, into `group`; how many. Dropped ones have expert -1."""
    size = 0
    for slot in range(len(experts)):
        if experts[slot] == expert:
            group[size] = slot
            size += 1
    return size


@njit
def _two(scales: Any, at_scales: int, row: int, inner: int) -> Any:
    """The scales of one row of w1 and of w3."""
    if at_scales == 0:
        return np.float32(1), np.float32(1)
    return scales[row], scales[row + inner]


@njit(fastmath={"contract", "reassoc"})
def _gate(act: Any, third: Any, start: int, stop: int) -> None:
    """In a loop of its own, which runs sixteen at a time."""
    for f in range(start, stop):
        act[f] = act[f] * sigmoid(act[f]) * third[f]
