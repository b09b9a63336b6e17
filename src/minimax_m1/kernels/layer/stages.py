"""Stages of a fused layer that no other kernel has: each thread does its share, and a barrier follows where it must.

In: addresses and sizes of float32 numbers between stages, and of weights, states and pages in their own formats.
Out: float32 between stages; keys, values and the layer's x rounded once to their formats.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from minimax_m1.kernels.formats import BFLOAT16, FLOAT32, array, dot, nearest, row_of, sigmoid, wide
from minimax_m1.kernels.linear.cpu import products
from minimax_m1.kernels.moe.route import DROPPED
from minimax_m1.kernels.norm.cpu import normed
from minimax_m1.kernels.threads import floats, integers, real, share


@njit
def product(at_x: int, form: int, at_weight: int, at_scales: int, at_out: int, shape: Any) -> None:
    """out [tokens, rows] = x weightᵀ, this thread's share of the rows of a weight in any format."""
    if form == FLOAT32:
        products(at_x, at_weight, at_scales, at_out, FLOAT32, shape, np.float32, np.float32)
    elif form == BFLOAT16:
        products(at_x, at_weight, at_scales, at_out, FLOAT32, shape, np.float32, np.uint16)
    else:
        products(at_x, at_weight, at_scales, at_out, FLOAT32, shape, np.float32, np.int8)


@njit
def widen(at_x: int, form: int, at_out: int, tokens: int, width: int) -> None:
    """This thread's tokens in float32."""
    first, stop = share(tokens)
    out = floats(at_out, tokens * width)
    if form == FLOAT32:
        same = floats(at_x, tokens * width)
        for i in range(first * width, stop * width):
            out[i] = same[i]
    else:
        x = array(at_x, tokens * width, np.uint16)
        for i in range(first * width, stop * width):
            out[i] = wide(x[i])


@njit
def norm_rows(at_x: int, at_weight: int, form: int, at_out: int, tokens: int, width: int, eps: int) -> None:
    """This thread's tokens, normed."""
    first, stop = share(tokens)
    skip, least = 4 * first * width, np.float32(real(eps))
    if form == FLOAT32:
        normed(at_x + skip, at_weight, at_out + skip, stop - first, width, least, np.float32, np.float32)
    else:
        normed(at_x + skip, at_weight, at_out + skip, stop - first, width, least, np.float32, np.uint16)


@njit(fastmath={"contract", "reassoc"})
def bend(at: int, tokens: int, width: int, silu: bool) -> None:
    """SiLU or sigmoid of [tokens, width] in place, this thread's share of the columns, as `products` wrote them."""
    first, stop = share(width)
    for token in range(tokens):
        row = floats(at + 4 * token * width, width)
        if silu:
            for i in range(first, stop):
                row[i] = row[i] * sigmoid(row[i])
        else:
            for i in range(first, stop):
                row[i] = sigmoid(row[i])


@njit(fastmath={"contract", "reassoc"})
def scale_rows(at: int, at_by: int, tokens: int, width: int) -> None:
    """This thread's tokens times others, number by number."""
    first, stop = share(tokens)
    out, by = floats(at, tokens * width), floats(at_by, tokens * width)
    for i in range(first * width, stop * width):
        out[i] *= by[i]


@njit(fastmath={"contract", "reassoc"})
def add(at_out: int, form: int, both: Any, tokens: int, width: int, alpha: int, beta: int) -> None:
    """out = alpha residual + beta branch, this thread's share of the columns, as `products` wrote them."""
    first, stop = share(width)
    out, low = floats(at_out, tokens * width), array(at_out, tokens * width, np.uint16)
    a, b = np.float32(real(alpha)), np.float32(real(beta))
    residual, branch = floats(both[0], tokens * width), floats(both[1], tokens * width)
    for token in range(tokens):
        begin, end = token * width + first, token * width + stop
        if form == FLOAT32:
            for i in range(begin, end):
                out[i] = a * residual[i] + b * branch[i]
        else:
            for i in range(begin, end):
                low[i] = nearest(a * residual[i] + b * branch[i], np.uint16)


@njit
def turn(asked: Any, turns: Any, held: Any, tokens: int, shape: Any, kind: Any, item: int) -> None:
    """Rotates q in place, and writes keys, rotated, and values to their pages; this thread's share of all heads."""
    at_q, at_k, at_v = asked
    at_keys, at_values, at_places = held
    groups, heads, width = shape
    places = integers(at_places, tokens)
    first, stop = share(tokens * (heads + groups))
    for unit in range(first, stop):
        token, head = unit // (heads + groups), unit % (heads + groups)
        if head < heads:
            _rotate(floats(at_q + 4 * (token * heads + head) * width, width), turns, token)
            continue
        row = token * groups + head - heads
        key, value = floats(at_k + 4 * row * width, width), floats(at_v + 4 * row * width, width)
        _rotate(key, turns, token)
        at = item * (places[token] * groups + head - heads) * width
        keys, values = array(at_keys + at, width, kind), array(at_values + at, width, kind)
        for j in range(width):
            keys[j] = nearest(key[j], kind)
            values[j] = nearest(value[j], kind)


@njit
def _rotate(x: Any, turns: Any, token: int) -> None:
    at_cos, at_sin, half = turns
    cos, sin = floats(at_cos + 4 * token * half, half), floats(at_sin + 4 * token * half, half)
    for i in range(half):
        a, b = x[i], x[i + half]
        x[i], x[i + half] = a * cos[i] - b * sin[i], b * cos[i] + a * sin[i]


@njit
def choose(at_x: int, at_router: int, routed: Any, at_limits: int, limit: int, tokens: int, shape: Any) -> None:
    """The router's logits and choices of this thread's tokens, as moe/route.py says."""
    at_experts, at_weights, at_logits = routed
    width, count, slots = shape
    first, stop = share(tokens)
    router = floats(at_router, count * width)
    for token in range(first, stop):
        x, logits = floats(at_x + 4 * token * width, width), floats(at_logits + 4 * token * count, count)
        for expert in range(count):
            logits[expert] = dot(row_of(router, expert, width), x)
        here = floats(at_limits, tokens)[token] if at_limits != 0 else np.float32(real(limit))
        experts = integers(at_experts + 8 * token * slots, slots)
        weights = floats(at_weights + 4 * token * slots, slots)
        _route(logits, experts, weights, here)


@njit(error_model="numpy")
def _route(logits: Any, experts: Any, weights: Any, limit: Any) -> None:
    """The best first, of equals the first; whatever is not a number is nobody's better, and yet someone is chosen."""
    total = np.float32(0)
    for slot in range(len(experts)):
        best = -1
        for expert in range(len(logits)):
            taken = False
            for i in range(slot):
                taken |= experts[i] == expert
            if not taken and (best < 0 or logits[expert] > logits[best]):
                best = expert
        experts[slot] = best
        weights[slot] = np.exp(logits[best] - logits[experts[0]])
        total += weights[slot]
    gathered, kept = 0.0, np.float32(0)  # in float64 and then rounded, as torch's cumsum
    for slot in range(len(experts)):
        weights[slot] /= total
        gathered += weights[slot]
        if limit < 1 and np.float32(gathered) - weights[slot] >= limit:
            experts[slot], weights[slot] = DROPPED, 0
        kept += weights[slot]
    if limit < 1:
        for slot in range(len(experts)):
            weights[slot] /= kept
