"""One token of each sequence through a whole decoder layer on a CPU: one region of all threads, barriers inside.

In and out as in reference.py, in float32 or bfloat16, with weights in x's format or int8. What passes between stages is
float32; x, keys and values are rounded once, on their way out. Each weight is read once, by all threads. Results do
not depend on their number. Other dtypes, more tokens and gradients are for the ops one by one: the answer is None.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from numba import njit
from torch import Tensor

from minimax_m1.kernels.attention.cpu import Look, look
from minimax_m1.kernels.formats import BFLOAT16, FLOAT32, FORMATS, INT8, compiles
from minimax_m1.kernels.formats import parts as split
from minimax_m1.kernels.layer.parts import LightningMixer, Parts, Past, Recent, Step
from minimax_m1.kernels.layer.stages import add, bend, choose, norm_rows, product, scale_rows, turn, widen
from minimax_m1.kernels.lightning.cpu import step
from minimax_m1.kernels.moe.cpu import both_products
from minimax_m1.kernels.ops import Layer
from minimax_m1.kernels.threads import Kernel, as_number, barrier, floats, integers, numbers, share

_MOST_TOKENS = {FLOAT32: 64, BFLOAT16: 32, INT8: 64}  # by the weights' format: above, torch's products win (measured)
_SHARED, _OWN, _LOOK = 39, 11, 16  # numbers that all layers read, that those of one kind read, and attention
_COUNT = _SHARED + _OWN + _LOOK


def compile_layer() -> Layer:
    """The op, compiled."""
    kernel = Kernel(_layer, _COUNT)

    def layer(x: Tensor, parts: Parts, past: Past, threshold: Tensor | float) -> Step | None:
        mixer, experts = parts.mixer, parts.experts
        maps = (mixer.qkv, mixer.gate) if isinstance(mixer, LightningMixer) else (mixer.q, mixer.k, mixer.v)
        held = [split(weight) for weight in (experts.w13, experts.w2, mixer.out, *maps)]
        if not _takes(x, parts, past, [values for values, _ in held]):
            return None
        tokens, width = x.shape
        (count, _, between), inner, slots = held[1][0].shape, held[2][0].shape[1], experts.top_k
        assert held[0][0].shape == (count, 2 * between, width) and experts.router.shape == (count, width)
        room = _Room.of(tokens, width, inner, slots, between)
        x = x.contiguous()
        out, routed = torch.empty_like(x), torch.empty(tokens, slots, dtype=torch.int64)
        weights, logits = room.numbers.new_empty(tokens, slots), room.numbers.new_empty(tokens, count)
        limits = threshold.float().contiguous() if isinstance(threshold, Tensor) else None
        limit = float(threshold) if limits is None else 1.0
        shared = (
            *(FORMATS[x.dtype], FORMATS[held[0][0].dtype], tokens, width, inner, count, slots, between),
            *(torch.get_num_threads(), int(parts.postnorm)),
            *map(as_number, (parts.eps, *parts.mixer_scale, *parts.experts_scale, limit)),
            0 if limits is None else limits.data_ptr(),
            *(t.data_ptr() for t in (x, out, routed, weights, logits, parts.norm, parts.experts_norm)),
            *(experts.router.data_ptr(), *room.addresses),
            *(number for values, at_scales in held for number in (values.data_ptr(), at_scales)),
        )
        work = tokens * (sum(values.numel() for values, _ in held[2:]) + 3 * slots * between * width)
        if isinstance(mixer, LightningMixer):
            assert isinstance(past, Tensor) and past.shape[:2].numel() * past.shape[2] == tokens * inner
            states = torch.empty_like(past)
            memory = mixer.slopes.data_ptr(), past.data_ptr(), states.data_ptr()
            heads = past.shape[1]
            kernel(work, *shared, mixer.norm.data_ptr(), as_number(mixer.eps), *memory, 0, heads, *(0,) * _LOOK)
            return Step(out, states, routed, weights, logits)
        assert isinstance(past, Recent) and len(past.keys) == tokens and past.keys.table is past.values.table
        heads = inner // past.keys.pool.shape[3]
        needs = Look.once(past.keys, heads)
        work += 2 * sum(past.keys.table.lengths) * inner
        turns = past.cos.data_ptr(), past.sin.data_ptr(), past.cos.shape[-1], past.places.data_ptr()
        at_pools = past.keys.pool.data_ptr(), past.values.pool.data_ptr()
        kernel(work, *shared, *turns, 0, room.asked, *at_pools, room.mixed, *needs.numbers)
        return Step(out, None, routed, weights, logits)

    return layer


@dataclass(frozen=True, slots=True)
class _Room:
    """Memory between stages: the experts' groups, int64; then stream, normed, branch [T, M], act [2, T, K, F], asked
    [T, 3HD], gate and mixed [T, HD]."""

    numbers: Tensor
    addresses: tuple[int, ...]

    @classmethod
    def of(cls, tokens: int, width: int, inner: int, slots: int, between: int) -> Self:
        row, groups = tokens * width, 2 * torch.get_num_threads() * tokens * slots
        act, asked = 2 * tokens * slots * between, 3 * tokens * inner
        sizes = groups, row, row, row, act, asked, tokens * inner, tokens * inner
        numbers = torch.empty(sum(sizes), dtype=torch.float32)
        at = numbers.data_ptr()
        return cls(numbers, tuple(at + 4 * start for start in accumulate(sizes[:-1], initial=0)))

    @property
    def asked(self) -> int:
        return self.addresses[5]

    @property
    def mixed(self) -> int:
        return self.addresses[7]


def _takes(x: Tensor, parts: Parts, past: Past, weights: Sequence[Tensor]) -> bool:
    """Whether the kernels read all of these where they lie."""
    if (
        not isinstance(past, Tensor | Recent)
        or not compiles(x, *weights)
        or weights[0].dtype not in (x.dtype, torch.int8)
    ):
        return False
    if len(x) > _MOST_TOKENS[FORMATS[weights[0].dtype]]:
        return False
    norms, wide = [parts.norm, parts.experts_norm], [parts.experts.router]
    if isinstance(past, Tensor):
        assert isinstance(parts.mixer, LightningMixer)
        norms.append(parts.mixer.norm)
        wide += [parts.mixer.slopes, past]
    else:
        norms += [past.keys.pool, past.values.pool]
        wide += [past.cos, past.sin]
    for group, dtype in ((norms, x.dtype), (wide, torch.float32)):
        for each in group:
            if each.dtype is not dtype or not each.is_contiguous():
                return False
    return True


def _layer(data: Any) -> None:
    """Formats are told apart inside each stage, so that each is compiled once and not once a layer of each kind."""
    given = numbers(data, _COUNT)
    heads = given[_SHARED + _OWN - 1]
    _begin(given)
    if heads != 0:
        _lightning(given, heads)
    else:
        _softmax(given)
    barrier(given)
    _end(given)


@njit
def _begin(given: Any) -> None:
    """x in float32, and normed."""
    x_form, _, tokens, width = given[:4]
    at_x, at_norm, at_stream, at_normed = given[17], given[22], given[26], given[27]
    widen(at_x, x_form, at_stream, tokens, width)
    norm_rows(at_stream, at_norm, x_form, at_normed, tokens, width, given[10])
    barrier(given)


@njit
def _lightning(given: Any, heads: int) -> None:
    """The mixer up to its last map."""
    x_form, form, tokens, width, inner = given[:5]
    at_normed, _, _, at_asked, at_gate, at_mixed = given[27:33]
    at_qkv, at_qkv_scales, at_gates, at_gates_scales, at_norm, eps = given[_SHARED : _SHARED + 6]
    at_slopes, at_states, at_ends = given[_SHARED + 6 : _SHARED + 9]
    product(at_normed, form, at_qkv, at_qkv_scales, at_asked, (tokens, width, 3 * inner))
    bend(at_asked, tokens, 3 * inner, True)
    product(at_normed, form, at_gates, at_gates_scales, at_gate, (tokens, width, inner))
    bend(at_gate, tokens, inner, False)
    barrier(given)
    one = inner // heads
    asked, memory = (at_asked, at_asked + 4 * one, at_asked + 8 * one), (at_slopes, at_states, at_ends)
    step(asked, memory, at_mixed, at_mixed, (tokens, heads, one), 3 * inner, 3 * one, np.float32)
    barrier(given)
    norm_rows(at_mixed, at_norm, x_form, at_mixed, tokens, inner, eps)
    scale_rows(at_mixed, at_gate, tokens, inner)


@njit
def _softmax(given: Any) -> None:
    """The mixer up to its last map."""
    x_form, form, tokens, width, inner = given[:5]
    at_normed = given[27]
    at_wq, at_q_scales, at_wk, at_k_scales, at_wv, at_v_scales = given[_SHARED : _SHARED + 6]
    at_cos, at_sin, half, at_places = given[_SHARED + 6 : _SHARED + 10]
    seen = given[_SHARED + _OWN :]
    at_q, at_keys, at_values = seen[:3]
    groups, heads, one = seen[12:15]
    at_k = at_q + 4 * tokens * inner
    at_v = at_k + 4 * tokens * groups * one
    product(at_normed, form, at_wq, at_q_scales, at_q, (tokens, width, inner))
    product(at_normed, form, at_wk, at_k_scales, at_k, (tokens, width, groups * one))
    product(at_normed, form, at_wv, at_v_scales, at_v, (tokens, width, groups * one))
    barrier(given)
    held, turns, shape = (at_keys, at_values, at_places), (at_cos, at_sin, half), (groups, heads, one)
    if x_form == FLOAT32:
        turn((at_q, at_k, at_v), turns, held, tokens, shape, np.float32, 4)
        barrier(given)
        look(given, seen, np.float32, 4, np.float32, 4)
    else:
        turn((at_q, at_k, at_v), turns, held, tokens, shape, np.uint16, 2)
        barrier(given)
        look(given, seen, np.uint16, 2, np.float32, 4)


@njit
def _end(given: Any) -> None:
    """From what was mixed to the layer's x: the last map of the mixer, then the experts."""
    x_form, form, tokens, width, inner, count, slots, between, threads, postnorm = given[:10]
    eps, alpha, beta, experts_alpha, experts_beta, limit, at_limits = given[10:17]
    at_out, at_experts, at_weights, at_logits, _, at_norm, at_router = given[18:25]
    at_groups, at_stream, at_normed, at_branch, at_act, _, _, at_mixed = given[25:33]
    at_w13, at_scales13, at_w2, at_scales2, at_last, at_last_scales = given[33:_SHARED]
    at_residual = at_normed if postnorm else at_stream
    product(at_mixed, form, at_last, at_last_scales, at_branch, (tokens, inner, width))
    add(at_stream, FLOAT32, (at_residual, at_branch), tokens, width, alpha, beta)
    barrier(given)
    norm_rows(at_stream, at_norm, x_form, at_normed, tokens, width, eps)
    routed = at_experts, at_weights, at_logits
    choose(at_normed, at_router, routed, at_limits, limit, tokens, (width, count, slots))
    barrier(given)
    thread, _ = share(threads)
    experts, weights = integers(at_experts, tokens * slots), floats(at_weights, tokens * slots)
    group = integers(at_groups + 8 * thread * tokens * slots, tokens * slots)
    into, outof = (at_normed, at_w13, at_scales13, at_act), (at_act, at_w2, at_scales2, at_branch)
    both_products(given, into, outof, experts, weights, group, form, (slots, count, width, between))
    add(at_out, x_form, (at_residual, at_branch), tokens, width, experts_alpha, experts_beta)
