"""Decode attention on a CPU: one new query of each sequence, or a few, against keys and values that lie in pages.

In and out as in reference.py, in float32 or bfloat16. For each query keys and values are read once, where they lie, by
all threads, and shared by all heads of a group; scores, weights and sums are float32. Sequences with more queries,
other dtypes and gradients are for torch.py, and so are tensors outside pages but for one query each.
What a query sees is cut into stretches of a fixed length, one softmax each, which are put together at the end: so its
result has the same bits in any batch and on any number of threads.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from minimax_m1.kernels.attention.torch import attention as many_queries
from minimax_m1.kernels.formats import BFLOAT16, FORMATS, array, compiles, exp2, nearest, wide
from minimax_m1.kernels.ops import Attention
from minimax_m1.kernels.pages import Paged, PageTable
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.threads import Kernel, as_number, barrier, floats, integers, numbers, real, share

_STRETCH = 256  # tokens, a multiple of 4: keys and values of a stretch fit the second cache, its scores the first
_FEW = 4  # queries of a sequence: 0.7 to 1.4 times the speed of torch on pages side by side, 1.5 to 2.7 on others
_AHEAD = 8  # tokens to ask the memory for in advance: 1.2 times the speed, on scattered pages twice (measured)
_LINE = 64  # bytes that memory hands over at once
_LOG2_E = 1.4426950408889634


def compile_attention() -> Attention:
    """The op, compiled."""
    kernel = Kernel(_decode, 17)

    def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
        if not isinstance(keys, Paged) and segments.single_tokens:
            whole = [_one_page(*each) for each in zip(keys, values, strict=True)]
            if all(_in_pages(q, paged) for pair in whole for paged in pair):
                alone = Segments.of([1])
                return torch.cat([attention(q[n : n + 1], *pair, alone) for n, pair in enumerate(whole)])
        if not (_in_pages(q, keys) and _in_pages(q, values)):
            return many_queries(q, keys, values, segments)
        assert isinstance(keys, Paged) and isinstance(values, Paged)  # as `_compiles` says
        assert keys.table is values.table and keys.pool.shape == values.pool.shape and len(keys) == len(segments)
        assert keys.pool.shape[3] == q.shape[2], f"keys {list(keys.pool.shape)} do not fit queries {list(q.shape)}"
        q, table = q.contiguous(), keys.table
        out = torch.empty_like(q)
        firsts = table.flat(q.device)[1]
        plan, stretches, work = [], 0, 0
        for n, (start, stop) in enumerate(pairwise(segments.cu_seqlens)):
            if stop - start > _FEW:
                alone = Segments.of([stop - start])
                out[start:stop] = many_queries(q[start:stop], keys[n : n + 1], values[n : n + 1], alone)
                continue
            for row in range(start, stop):
                seen = table.lengths[n] - (stop - row - 1)
                plan.append((row, seen, firsts[n], stretches))
                stretches, work = stretches - -seen // _STRETCH, work + seen
        if plan:
            _, heads, width = q.shape
            asked = q.float()
            needs = Look.of(plan, stretches, keys, heads)
            at = asked.data_ptr(), keys.pool.data_ptr(), values.pool.data_ptr(), out.data_ptr()
            kernel(2 * work * heads * width, *at, *needs.numbers, FORMATS[q.dtype])
        return out

    return attention


@dataclass(frozen=True, slots=True)
class Look:
    """What `look` needs beside the addresses of q, keys, values and out: 12 numbers, and the memory behind them."""

    numbers: tuple[int, ...]
    behind: tuple[Tensor, ...]

    @classmethod
    def of(cls, plan: Sequence[tuple[int, int, int, int]], stretches: int, keys: Paged, heads: int) -> Self:
        """`plan`: for each query its row, the tokens it sees, where its pages begin and which stretch is its first."""
        _, size, groups, width = keys.pool.shape
        assert heads % groups == 0 and size == keys.table.size and all(seen > 0 for _, seen, _, _ in plan)
        slots, pages = torch.get_num_threads(), keys.table.flat(keys.pool.device)[0]
        rows, room = torch.tensor(plan), torch.empty(slots * _STRETCH * (heads + 2), dtype=torch.float32)
        parts = torch.empty(stretches * heads * (width + 2), dtype=torch.float32)
        behind = rows, pages, room, parts
        shape = slots, len(plan), stretches, size, groups, heads, width
        return cls((*(each.data_ptr() for each in behind), *shape, as_number(_LOG2_E / width**0.5)), behind)

    @classmethod
    def once(cls, keys: Paged, heads: int) -> Self:
        """One query of each sequence."""
        firsts, plan, stretches = keys.table.flat(keys.pool.device)[1], [], 0
        for row, (seen, first) in enumerate(zip(keys.table.lengths, firsts, strict=True)):
            plan.append((row, seen, first, stretches))
            stretches -= -seen // _STRETCH
        return cls.of(plan, stretches, keys, heads)


def _one_page(keys: Tensor, values: Tensor) -> tuple[Paged, Paged]:
    """Keys and values [L, G, D] that lie in one piece, as one page of L tokens."""
    table = PageTable((np.zeros(1, np.int64),), (len(keys),), len(keys))
    return Paged(keys[None], table), Paged(values[None], table)


def _in_pages(q: Tensor, held: Sequence[Tensor]) -> bool:
    return isinstance(held, Paged) and q.dtype is held.pool.dtype and compiles(q, held.pool)


def _decode(data: Any) -> None:
    given = numbers(data, 17)
    if given[16] == BFLOAT16:
        look(given, given, np.uint16, 2, np.uint16, 2)
    else:
        look(given, given, np.float32, 4, np.float32, 4)


@njit
def look(all_given: Any, given: Any, kind: Any, item: int, out_kind: Any, out_item: int) -> None:
    """All of it for keys and values of one kind, numbers of `item` bytes; `given` holds them."""
    at_q, at_keys, at_values, at_out, at_plan, at_pages, at_room, at_parts = given[:8]
    slots, rows, stretches, size, groups, heads, width = given[8:15]
    scale = np.float32(real(given[15]))
    plan, shape, part_size = integers(at_plan, rows * 4), (groups, heads, width), heads * (width + 2)
    slot, _ = share(slots)
    at_room += slot * 4 * _STRETCH * (heads + 2)
    places, scores = integers(at_room, _STRETCH), floats(at_room + 8 * _STRETCH, _STRETCH * heads)
    first, stop = share(stretches)
    row = 0
    for stretch in range(first, stop):
        while row + 1 < rows and plan[row * 4 + 7] <= stretch:
            row += 1
        token = (stretch - plan[row * 4 + 3]) * _STRETCH
        count = min(_STRETCH, plan[row * 4 + 1] - token)
        whole = (count + 3) // 4 * 4
        _place(places[:whole], count, at_pages + 8 * plan[row * 4 + 2], token, size, item * groups * width)
        part = floats(at_parts + 4 * stretch * part_size, part_size)
        at = at_q + 4 * plan[row * 4] * heads * width
        _score(at, at_keys, places[:whole], scores, part, shape, scale, kind, item)
        _weigh(scores, whole, count, part, shape)
        _mix(at_values, places[:whole], scores, part, shape, kind, item)
    barrier(all_given)
    first, stop = share(rows * heads)
    for unit in range(first, stop):
        row, head = unit // heads, unit % heads
        begin, end = plan[row * 4 + 3], plan[row * 4 + 7] if row + 1 < rows else stretches
        parts = floats(at_parts + 4 * begin * part_size, (end - begin) * part_size)
        mixed = _merge(parts, head * (width + 2), part_size, width)
        out = array(at_out + out_item * (plan[row * 4] * heads + head) * width, width, out_kind)
        for j in range(width):
            out[j] = nearest(mixed[j], out_kind)


@njit
def _place(places: Any, count: int, at_pages: int, token: int, size: int, row_bytes: int) -> None:
    """Where `count` tokens from `token` on lie, in bytes; then copies of the last, which fill the room."""
    page, within = token // size, token % size
    pages = integers(at_pages, (token + count + size - 1) // size)
    for t in range(count):
        places[t] = (pages[page] * size + within) * row_bytes
        within += 1
        if within == size:
            page, within = page + 1, 0
    places[count:] = places[count - 1]


@njit(fastmath={"contract", "reassoc"})
def _score(
    at_q: int, at_keys: int, places: Any, scores: Any, part: Any, shape: Any, scale: Any, kind: Any, item: int
) -> None:
    """Scores in units of log 2, [H, stretch], four tokens at a time, and the highest of each head."""
    groups, heads, width = shape
    part[width :: width + 2] = -np.inf
    for t in range(0, len(places), 4):
        _fetch(at_keys, places[t + _AHEAD : t + _AHEAD + 4], item * groups * width)
        for group in range(groups):
            at = at_keys + item * group * width
            k0, k1 = array(at + places[t], width, kind), array(at + places[t + 1], width, kind)
            k2, k3 = array(at + places[t + 2], width, kind), array(at + places[t + 3], width, kind)
            for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
                q = floats(at_q + 4 * head * width, width)
                s0 = s1 = s2 = s3 = np.float32(0)
                for j in range(width):
                    s0 += q[j] * wide(k0[j])
                    s1 += q[j] * wide(k1[j])
                    s2 += q[j] * wide(k2[j])
                    s3 += q[j] * wide(k3[j])
                s0, s1, s2, s3 = s0 * scale, s1 * scale, s2 * scale, s3 * scale
                here = head * _STRETCH + t
                scores[here], scores[here + 1], scores[here + 2], scores[here + 3] = s0, s1, s2, s3
                most = head * (width + 2) + width
                part[most] = max(part[most], max(max(s0, s1), max(s2, s3)))


@njit(fastmath={"contract", "reassoc"})
def _weigh(scores: Any, whole: int, count: int, part: Any, shape: Any) -> None:
    """Scores become weights, 0 from `count` on; their sums go beside the highest scores."""
    _, heads, width = shape
    for head in range(heads):
        most, total = part[head * (width + 2) + width], np.float32(0)
        weights = scores[head * _STRETCH : head * _STRETCH + whole]
        for t in range(count):
            weights[t] = exp2(weights[t] - most)
            total += weights[t]
        weights[count:] = 0
        part[head * (width + 2) + width + 1] = total


@njit(fastmath={"contract", "reassoc"})
def _mix(at_values: int, places: Any, weights: Any, part: Any, shape: Any, kind: Any, item: int) -> None:
    """Values added up by weight, four tokens at a time."""
    groups, heads, width = shape
    for head in range(heads):
        part[head * (width + 2) : head * (width + 2) + width] = 0
    for t in range(0, len(places), 4):
        _fetch(at_values, places[t + _AHEAD : t + _AHEAD + 4], item * groups * width)
        for group in range(groups):
            at = at_values + item * group * width
            v0, v1 = array(at + places[t], width, kind), array(at + places[t + 1], width, kind)
            v2, v3 = array(at + places[t + 2], width, kind), array(at + places[t + 3], width, kind)
            for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
                here = head * _STRETCH + t
                w0, w1, w2, w3 = weights[here], weights[here + 1], weights[here + 2], weights[here + 3]
                mixed = part[head * (width + 2) : head * (width + 2) + width]
                for j in range(width):
                    mixed[j] += w0 * wide(v0[j]) + w1 * wide(v1[j]) + w2 * wide(v2[j]) + w3 * wide(v3[j])


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def _merge(parts: Any, offset: int, step: int, width: int) -> Any:
    """Puts the stretches of one head together, in the first one's place: each holds its mixed values, its highest
    score, its sum of weights."""
    most = np.float32(-np.inf)
    for at in range(offset, len(parts), step):
        most = max(most, parts[at + width])
    out = parts[offset : offset + width]
    total = np.float32(0)
    for at in range(offset, len(parts), step):
        weight = exp2(parts[at + width] - most)
        total += weight * parts[at + width + 1]
        part = parts[at : at + width]
        for j in range(width):
            out[j] = weight * part[j] + (np.float32(0) if at == offset else out[j])
    for j in range(width):
        out[j] /= total
    return out


@njit
def _fetch(address: int, places: Any, row_bytes: int) -> None:
    """Asks for rows that will be read soon."""
    for t in range(len(places)):
        for byte in range(0, row_bytes, _LINE):
            _prefetch(address + places[t] + byte)


@intrinsic
def _prefetch(_typing: Any, _address: Any) -> Any:
    """Starts to bring a line of memory near. (It returns nothing; the 32 bits are noise.)"""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        bits = ir.IntType(32)
        at = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        entry = ir.FunctionType(ir.VoidType(), (at.type, bits, bits, bits))
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (at.type,), entry)
        builder.call(prefetch, (at, bits(0), bits(3), bits(1)))  # to read, to keep, data
        return bits(0)

    return types.int32(types.int64), code
