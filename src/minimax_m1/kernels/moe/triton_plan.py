"""Who works for whom: entries (token * K + slot) sorted by expert, each expert's rows filled up to whole blocks.

In: experts [T, K], -1 where an entry is dropped; the number of experts; rows in a block. Out: `Plan`, on the device,
whose shapes follow from T, K, E and the block alone, so that nothing waits for the host and a graph can hold it. The
sort keeps the order of entries within an expert: the same routing gives the same plan. One launch where few entries
are, as in decode, else three: count, add up, place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_COMPARED = 2**14  # entries times experts that one program compares


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """order [blocks * rows] int32: the entry of each sorted row, -1 in a row that fills a block up.

    owner [blocks] int32: the expert of each block, -1 for a block of nobody's, whose rows of `order` are not written.
    starts [E + 1] int32: the first block of each expert, then how many blocks are used.
    """

    order: Tensor
    owner: Tensor
    starts: Tensor
    rows: int


def plan(experts: Tensor, count: int, rows: int) -> Plan:
    """Sorts experts [T, K] int64 with values from -1 to count - 1 into blocks of `rows`, a power of two."""
    entries = experts.numel()
    wide = max(2, 1 << (count - 1).bit_length())
    blocks = min(entries, (entries + count * (rows - 1)) // rows)  # no routing fills more
    order = experts.new_empty(blocks * rows, dtype=torch.int32)
    owner, starts = order.new_empty(blocks), order.new_empty(count + 1)
    made = Plan(order=order, owner=owner, starts=starts, rows=rows)
    flat = experts.reshape(-1)
    chunk = max(16, 1 << (entries - 1).bit_length()) if entries else 16
    if chunk * wide <= _COMPARED:
        _whole[(1,)](
            *(flat, order, owner, starts, entries, count, blocks),
            **{"CHUNK": chunk, "ROWS": rows, "WIDE": wide, "OWNERS": 128, "num_warps": 8},
        )
        return made
    chunk = max(16, _COMPARED // wide)
    chunks = triton.cdiv(entries, chunk)
    before = order.new_empty(chunks, wide)  # entries of each expert in each chunk, then the row of the first of them
    _count[(chunks,)](flat, before, entries, CHUNK=chunk, WIDE=wide, num_warps=8)
    _add_up[(1,)](before, order, starts, chunks, count, AT_ONCE=64, ROWS=rows, WIDE=wide, num_warps=8)
    _place[(triton.cdiv(max(entries, blocks), chunk),)](
        *(flat, before, order, owner, starts, entries, count, blocks),
        **{"CHUNK": chunk, "WIDE": wide, "num_warps": 8},
    )
    return made


@triton.jit
def _whole(
    experts_ptr, order_ptr, owner_ptr, starts_ptr, entries, count, blocks,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, OWNERS: tl.constexpr,
):  # fmt: skip
    """The plan of at most CHUNK entries."""
    e = tl.arange(0, WIDE)
    entry = tl.arange(0, CHUNK)
    expert = tl.load(experts_ptr + entry, entry < entries, -1).to(tl.int32)
    same = (expert[:, None] == e).to(tl.int32)  # [CHUNK, WIDE]
    sizes = tl.sum(same, 0)
    starts, ends = _starts(sizes, starts_ptr, e, count, ROWS)
    rows = tl.sum(same * (tl.cumsum(same, 0) - 1 + (starts * ROWS)[None, :]), 1)
    tl.store(order_ptr + rows, entry, expert >= 0)
    _fill_up(order_ptr, starts, sizes, ROWS)
    for first in range(0, blocks, OWNERS):
        block = first + tl.arange(0, OWNERS)
        _name(owner_ptr, block, ends, e, count, blocks)


@triton.jit
def _count(experts_ptr, before_ptr, entries, CHUNK: tl.constexpr, WIDE: tl.constexpr):
    """How many entries of its chunk go to each expert."""
    e = tl.arange(0, WIDE)
    entry = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    expert = tl.load(experts_ptr + entry, entry < entries, -1).to(tl.int32)
    tl.store(before_ptr + tl.program_id(0) * WIDE + e, tl.sum((expert[:, None] == e).to(tl.int32), 0))


@triton.jit
def _add_up(
    before_ptr, order_ptr, starts_ptr, chunks, count,
    AT_ONCE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Counts of chunks to the rows where their entries begin; one program."""
    e = tl.arange(0, WIDE)
    sizes = tl.zeros([WIDE], tl.int32)
    for first in range(0, chunks, AT_ONCE):
        c = first + tl.arange(0, AT_ONCE)
        sizes += tl.sum(tl.load(before_ptr + c[:, None] * WIDE + e, (c < chunks)[:, None], 0), 0)
    starts, _ = _starts(sizes, starts_ptr, e, count, ROWS)
    rows = starts * ROWS
    for first in range(0, chunks, AT_ONCE):
        c = first + tl.arange(0, AT_ONCE)
        at, inside = before_ptr + c[:, None] * WIDE + e, (c < chunks)[:, None]
        here = tl.load(at, inside, 0)  # [AT_ONCE, WIDE]
        tl.store(at, rows[None, :] + tl.cumsum(here, 0) - here, inside)
        rows += tl.sum(here, 0)
    _fill_up(order_ptr, starts, sizes, ROWS)


@triton.jit
def _place(
    experts_ptr, before_ptr, order_ptr, owner_ptr, starts_ptr, entries, count, blocks,
    CHUNK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Writes a chunk's entries to their rows, and as many blocks' owners."""
    e = tl.arange(0, WIDE)
    entry = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    _name(owner_ptr, entry, tl.load(starts_ptr + 1 + e, e < count, 0), e, count, blocks)
    if tl.program_id(0) * CHUNK < entries:
        expert = tl.load(experts_ptr + entry, entry < entries, -1).to(tl.int32)
        same = (expert[:, None] == e).to(tl.int32)  # [CHUNK, WIDE]
        first = tl.load(before_ptr + tl.program_id(0) * WIDE + e)
        rows = tl.sum(same * (tl.cumsum(same, 0) - 1 + first[None, :]), 1)
        tl.store(order_ptr + rows, entry, expert >= 0)


@triton.jit
def _starts(sizes, starts_ptr, e, count, ROWS: tl.constexpr):
    """The first block of each expert and the one after its last, [WIDE]; written as Plan.starts."""
    used = (sizes + ROWS - 1) // ROWS
    ends = tl.cumsum(used, 0)
    tl.store(starts_ptr + e, ends - used, e < count)
    tl.store(starts_ptr + 1 + e, ends, e == count - 1)
    return ends - used, ends


@triton.jit
def _fill_up(order_ptr, starts, sizes, ROWS: tl.constexpr):
    """-1 to the rows after each expert's last, up to the end of its last block."""
    for first in tl.static_range(0, ROWS, 16):
        more = first + tl.arange(0, 16)
        rows = (starts * ROWS + sizes)[:, None] + more  # [WIDE, 16]
        tl.store(order_ptr + rows, tl.full(rows.shape, -1, tl.int32), more < ((-sizes) & (ROWS - 1))[:, None])


@triton.jit
def _name(owner_ptr, block, ends, e, count, blocks):
    """The owners of some blocks: how many experts end before each."""
    passed = (ends[None, :] <= block[:, None]) & (e < count)[None, :]
    owner = tl.sum(passed.to(tl.int32), 1)
    tl.store(owner_ptr + block, tl.where(owner < count, owner, -1), block < blocks)
