"""Softmax attention on a GPU: one query of each sequence against keys in pages, and the op for any batch.

In and out as in reference.py. A decode step reads keys and values once, where they lie. Each sequence is cut into
stretches of a fixed length, one softmax each, which are put together in order: so a row has the same bits in any batch.
A fixed number of programs shares the stretches out among them, so that one sequence of a million tokens and hundreds
of short ones fill the GPU alike, however wide the table is. More queries are for libraries (varlen.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from minimax_m1.kernels.attention import varlen
from minimax_m1.kernels.attention.triton_prefill import paged_prefill
from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS, MULTIPROCESSORS
from minimax_m1.kernels.pages import BlockTable, Paged
from minimax_m1.kernels.segments import Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How `paged_attention` goes about its work; only `stretch` and `tile` move its result, by rounding.

    stretch: tokens of one softmax, a multiple of `tile`, which is what one step reads. programs: on the whole GPU,
    three for each SM of an H100; merges: how many put stretches together, about, for the time of those with nothing to
    do adds up too. rows: of scratch, beside one a sequence, each of H (D + 1) float32; where a batch has more stretches
    than those, from 8 million tokens on, they are twice as long until it has not.
    """

    tile: int
    stretch: int = 1024
    warps: int = 4
    stages: int = 5  # two tiles of keys and two of values at a time: pages are looked up ahead of what they hold
    registers: int | None = None  # most that a thread may take
    programs: int = 3 * MULTIPROCESSORS
    merges: int = 2048
    rows: int = 8192


def choose_tiles(width: int, size: int, queries: int) -> Tiles:
    """For heads of `width` numbers of `size` bytes, `queries` of them to a key: 16 KB of keys a tile, so that three
    programs share the 227 KB and the 65,536 registers of an SM."""
    tile = max(16, min(256 // size, 2**14 // (width * size)))
    if size == 4:
        return Tiles(tile=tile, stages=3)  # no matrix unit: more stages would cost registers, and hide nothing
    return Tiles(tile=tile, registers=168 if width <= 128 and queries <= 16 else None)


@eager
def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, table: BlockTable, *, tiles: Tiles | None = None
) -> Tensor:
    """q [N, H, D], one query a sequence; keys and values [P, B, G, D], which may be strided alike; -> [N, H, D].

    A sequence sees the tokens its table counts; one of none gets zeros. Asks the host nothing and allocates by shapes
    alone, so that a CUDA graph can record it. No gradient.

    Raises:
        ValueError: a dtype other than float32, bfloat16 and float16; heads that are no multiple of 16 up to 256 wide;
            pages of a size that is no power of two from 16 on.
    """
    (count, heads, width), (_, size, groups, _) = q.shape, keys.shape
    if q.dtype not in FLOATS or keys.dtype not in FLOATS:
        raise ValueError(
            f"q {list(q.shape)} in {q.dtype} over pages of keys {list(keys.shape)} in {keys.dtype}: float32, bfloat16 "
            "and float16 are supported"
        )
    if width % 16 or width > 256:
        raise ValueError(f"heads of q {list(q.shape)} must be a multiple of 16 wide, up to 256")
    if size < 16 or size & (size - 1):
        raise ValueError(f"pages of keys {list(keys.shape)} must hold a power of two of tokens, 16 or more")
    assert not (torch.is_grad_enabled() and q.requires_grad), "attention over pages gives no gradients"
    assert keys.shape == values.shape and keys.stride() == values.stride() and keys.stride(3) == 1, keys.stride()
    assert keys.shape[3] == width and heads % groups == 0 and values.dtype is keys.dtype, (q.shape, keys.shape)
    q, out = q.contiguous(), q.new_empty(q.shape)
    if count == 0:
        return out
    assert len(table.pages) == len(table.lengths) == count and table.pages.stride(1) == 1, table.pages.shape
    queries = max(16, triton.next_power_of_2(heads // groups))  # the matrix unit's least
    tiles = tiles or choose_tiles(triton.next_power_of_2(width), max(q.element_size(), keys.element_size()), queries)
    assert tiles.stretch % tiles.tile == 0, tiles
    most = max(1, -(-table.pages.shape[1] * size // tiles.stretch))  # stretches of the longest sequence there can be
    rows = min(count * most, count + tiles.rows)
    doublings = next(times for times in range(32) if count * -(-most >> times) <= rows)
    parts, logs = q.new_empty(rows, heads, width, dtype=torch.float32), q.new_empty(rows, heads, dtype=torch.float32)
    shape = {"H": heads, "D": width, "BLOCK_D": triton.next_power_of_2(width)}
    plan = {"STRETCH": tiles.stretch, "DOUBLINGS": doublings, "BLOCK_N": triton.next_power_of_2(count)}
    _attend[(min(tiles.programs, rows * groups),)](
        *(q, keys, values, table.pages, table.lengths, out, parts, logs, count, rows),
        *(table.pages.stride(0), *keys.stride()[:3], math.log2(math.e) / width**0.5),
        **(shape | plan),
        G=groups,
        SIZE=size,
        TILE=tiles.tile,
        BLOCK_R=queries,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )
    if most > 1:
        each = max(1, min(8, count * heads // tiles.merges))  # heads a program
        at = parts, logs, table.lengths, out, count, rows
        grid = (count, triton.cdiv(heads, each))
        _merge[grid](*at, **(shape | plan), HEADS=each, BLOCK_S=16, STAGES=4, num_warps=4)
    return out


@eager
def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
    """The op for any batch; gradients equal the reference's.

    Without gradients, keys and values in pages are read so: one query of a sequence by `paged_attention`; several by
    varlen.py's library, which a kernel here lays each sequence's out in a row for, or in float32 by
    `paged_prefill`. All else varlen.py takes as it is: tensors, and pages where a gradient is asked for.
    """
    assert len(keys) == len(values) == len(segments)
    if segments.total == 0:
        return torch.zeros_like(q)
    if not (isinstance(keys, Paged) and isinstance(values, Paged)) or (torch.is_grad_enabled() and q.requires_grad):
        return varlen.attention(q, keys, values, segments)
    assert keys.table is values.table, "keys and values lie in the same pages"
    table = keys.table.blocks(q.device)
    if segments.single_tokens:
        return paged_attention(q, keys.pool, values.pool, table)
    parts = segments.parts(q.device)
    if not parts:
        return _several(q, keys, values, table, segments, keys.table.lengths)
    out = torch.empty_like(q)
    for part in parts:
        here = BlockTable(table.pages[part.sequences], table.lengths[part.sequences])
        if part.segments.single_tokens:
            out[part.rows] = paged_attention(q[part.rows], keys.pool, values.pool, here)
        elif part.segments.total:
            lengths = [length for length, new in zip(keys.table.lengths, segments.lengths, strict=True) if new != 1]
            out[part.rows] = _several(q[part.rows], keys, values, here, part.segments, lengths)
    return out


def _several(
    q: Tensor, keys: Paged, values: Paged, table: BlockTable, segments: Segments, lengths: Sequence[int]
) -> Tensor:
    """Several queries of a sequence, by a library if one takes them, else by a kernel that reads the pages."""
    if varlen.library_of(q) == "torch":
        return paged_prefill(q, keys.pool, values.pool, table, segments)
    return out_of_pages(q, keys, values, table, segments, lengths)


def out_of_pages(
    q: Tensor, keys: Paged, values: Paged, table: BlockTable, segments: Segments, lengths: Sequence[int]
) -> Tensor:
    """Several queries of a sequence: its keys and values are copied out of their pages, then read by a library.

    The copy moves as much memory as a few queries would; a slice of thousands hides it.
    """
    starts = pad(table.lengths.cumsum(0, dtype=torch.int32), (1, 0))
    rows = gather(keys.pool, values.pool, table, starts, lengths)
    return varlen.packed(q, *rows, segments, starts, lengths)


def gather(
    keys: Tensor, values: Tensor, table: BlockTable, starts: Tensor, lengths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Keys and values [P, B, G, D] of N sequences, one after the other: [sum of L, G, D], from row `starts` [N+1] on.

    `lengths` are the table's, as the host knows them.
    """
    _, size, groups, width = keys.shape
    assert keys.shape == values.shape and keys.stride() == values.stride() and keys.stride(3) == 1, keys.stride()
    out = keys.new_empty(2, sum(lengths), groups, width)
    columns = triton.next_power_of_2(groups * width)
    tokens = max(1, 2**13 // columns)
    grid = (triton.cdiv(max(lengths), tokens), len(lengths))
    strides = table.pages.stride(0), *keys.stride()[:3]
    _gather[grid](
        *(keys, values, *out, table.pages, table.lengths, starts, *strides),
        **{"G": groups, "D": width, "SIZE": size, "TOKENS": tokens, "COLUMNS": columns},
        num_warps=4,
    )
    return out[0], out[1]


@triton.jit
def _stretches(lengths, count, capacity, STRETCH: tl.constexpr, DOUBLINGS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tokens of a stretch, and how many stretches each sequence has, at least one: [BLOCK_N]."""
    n = tl.arange(0, BLOCK_N)
    length = tl.load(lengths + n, mask=n < count, other=0)
    stretch = tl.full((), STRETCH, tl.int32)
    each = tl.where(n < count, tl.maximum((length + stretch - 1) // stretch, 1), 0)
    for _ in tl.static_range(DOUBLINGS):  # a while loop would keep the compiler from reading memory ahead
        stretch = tl.where(tl.sum(each) > capacity, 2 * stretch, stretch)
        each = tl.where(n < count, tl.maximum((length + stretch - 1) // stretch, 1), 0)
    return stretch, each


@triton.jit
def _attend(
    q, keys, values, pages, lengths, out, parts, logs, count, capacity, table_stride, page_stride, token_stride,
    group_stride, scale, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, STRETCH: tl.constexpr,
    DOUBLINGS: tl.constexpr, TILE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One stretch of one sequence at a time, for the H / G heads of a group: to `out` what is a whole sequence, else
    their mixed values to `parts` and log2 of the sums of their weights to `logs`."""
    R: tl.constexpr = H // G
    PRECISION: tl.constexpr = (
        "ieee" if q.dtype.element_ty == tl.float32 else "tf32"
    )  # of 16-bit numbers it says nothing
    stretch, each = _stretches(lengths, count, capacity, STRETCH, DOUBLINGS, BLOCK_N)
    ends = tl.cumsum(each)
    r, d, t = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_D), tl.arange(0, TILE)
    real = (r[:, None] < R) & (d[None, :] < D)  # [R, D]
    for item in range(tl.program_id(0), tl.sum(each) * G, tl.num_programs(0)):
        # Heads of one token lie side by side in memory: programs that run at the same time read them together.
        row, group = item // G, item % G
        before = ends <= row
        n = tl.sum(before.to(tl.int32))
        stretches = tl.sum(tl.where(tl.arange(0, BLOCK_N) == n, each, 0))
        first = (row - tl.max(tl.where(before, ends, 0))) * stretch
        last = tl.minimum(first + stretch, tl.load(lengths + n))
        here = (n.to(tl.int64) * H + group * R + r) * D  # [R]
        query = tl.load(q + here[:, None] + d[None, :], mask=real, other=0.0)  # [R, D]
        most = tl.full((BLOCK_R,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_R,), tl.float32)
        mixed = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        own_pages = pages + n.to(tl.int64) * table_stride
        for start in range(first, last, TILE):
            at = start + t
            if SIZE >= TILE:  # a tile lies in one page
                base = tl.load(own_pages + start // SIZE).to(tl.int64) * page_stride
                within = (start % SIZE + t) * token_stride
            else:
                base = tl.full((), 0, tl.int64)
                within = tl.load(own_pages + at // SIZE, mask=at < last, other=0).to(tl.int64) * page_stride
                within += at % SIZE * token_stride
            place = base + group * group_stride + within[:, None] + d[None, :]  # [T, D]
            held = (at[:, None] < last) & (d[None, :] < D)
            key = tl.load(keys + place, mask=held, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale  # [R, T]
            scores = tl.where(at[None, :] < last, scores, float("-inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            fade = tl.exp2(most - higher)
            total = total * fade + tl.sum(weights, 1)
            value = tl.load(values + place, mask=held, other=0.0).to(query.dtype)
            mixed = tl.dot(weights.to(query.dtype), value, mixed * fade[:, None], input_precision=PRECISION)
            most = higher
        total = tl.where(total == 0, 1.0, total)  # of no tokens: nobody's row
        mixed /= total[:, None]
        if stretches == 1:
            tl.store(out + here[:, None] + d[None, :], mixed.to(out.dtype.element_ty), mask=real)
        else:
            there = (row * H + group * R + r).to(tl.int64)  # [R]
            tl.store(parts + there[:, None] * D + d[None, :], mixed, mask=real)
            tl.store(logs + there, most + tl.log2(total), mask=r < R)


@triton.jit
def _merge(
    parts, logs, lengths, out, count, capacity, H: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr,
    STRETCH: tl.constexpr, DOUBLINGS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Puts the stretches of some heads of one sequence together, in order."""
    n = tl.program_id(0)
    _, each = _stretches(lengths, count, capacity, STRETCH, DOUBLINGS, BLOCK_N)
    at = tl.arange(0, BLOCK_N)
    first = tl.sum(tl.where(at < n, each, 0))
    stretches = tl.sum(tl.where(at == n, each, 0))
    s, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    if stretches > 1:
        for head in range(tl.program_id(1) * HEADS, tl.minimum(H, (tl.program_id(1) + 1) * HEADS)):
            most = tl.full((), float("-inf"), tl.float32)
            total = tl.full((), 0.0, tl.float32)
            mixed = tl.zeros((BLOCK_D,), tl.float32)
            for start in tl.range(0, stretches, BLOCK_S, num_stages=STAGES):
                held = start + s < stretches
                row = (first + start + s).to(tl.int64) * H + head
                log = tl.load(logs + row, mask=held, other=float("-inf"))  # [S]
                part = tl.load(parts + row[:, None] * D + d[None, :], mask=held[:, None] & (d[None, :] < D), other=0.0)
                higher = tl.maximum(most, tl.max(log, 0))
                weights, fade = tl.exp2(log - higher), tl.exp2(most - higher)
                total = total * fade + tl.sum(weights, 0)
                mixed = mixed * fade + tl.sum(weights[:, None] * part, 0)
                most = higher
            place = (n.to(tl.int64) * H + head) * D + d
            tl.store(out + place, (mixed / total).to(out.dtype.element_ty), mask=d < D)


@triton.jit
def _gather(
    keys, values, key_rows, value_rows, pages, lengths, starts, table_stride, page_stride, token_stride, group_stride,
    G: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Some tokens of one sequence, all groups of them."""
    n = tl.program_id(1)
    at = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    c = tl.arange(0, COLUMNS)
    held = at < tl.load(lengths + n)
    both = held[:, None] & (c[None, :] < G * D)
    page = tl.load(pages + n.to(tl.int64) * table_stride + at // SIZE, mask=held, other=0).to(tl.int64)
    place = page * page_stride + at % SIZE * token_stride
    place = place[:, None] + (c // D * group_stride + c % D)[None, :]
    row = (tl.load(starts + n) + at).to(tl.int64)[:, None] * (G * D) + c[None, :]
    key, value = tl.load(keys + place, mask=both), tl.load(values + place, mask=both)
    tl.store(key_rows + row, key, mask=both)
    tl.store(value_rows + row, value, mask=both)
