"""The decode step of a lightning mixer on a GPU, in one launch that reads and writes each state once.

In and out as in reference.py; float32, bfloat16 or float16 tokens, float32 states, head widths that are multiples of
16 up to 256. A program owns some value columns of one head of one sequence; the last program of a row to come through
norms and gates it. Nothing depends on data the host would have to see: the step fits into a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS
from minimax_m1.kernels.slots import Slots

_WIDEST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Value columns a program, and its warps."""

    columns: int
    warps: int


def choose_tiles(heads: int, width: int) -> Tiles:
    """Tiles of at most 32 KB of state, 32 numbers a thread: eight loads of 16 bytes are under way at once.

    At width 128 three programs of 80 registers a thread fit on a multiprocessor of an H100, with 96 KB on its way; one
    sequence of 64 heads makes 128 programs.
    """
    padded = triton.next_power_of_2(width)
    columns = min(64, 8192 // padded, padded)
    largest = max(padded * columns, triton.next_power_of_2(heads * width))  # of a state, or of a row to norm
    # No more threads than a state has numbers: two that held the same one would read it while the other writes it.
    return Tiles(columns=columns, warps=min(16, max(1, largest // 1024), padded * columns // 32))


@eager
def recurrent(
    qkv: Tensor,
    gate: Tensor,
    norm: Tensor,
    eps: float,
    slopes: Tensor,
    states: Slots,
    *,
    tiles: Tiles | None = None,
) -> Tensor:
    """qkv [N, 3HD], gate [N, HD], norm [HD] of one dtype; slopes [H]; slots whose index names none twice -> [N, HD].

    Without `states.arrived` each call makes its own, which is a launch more. ValueError for a dtype or a width that
    the kernel does not take.
    """
    pool = states.pool
    heads, width = pool.shape[1:3]
    rows, inner = len(qkv), heads * width
    assert pool.dtype == torch.float32 and pool.is_contiguous() and pool.shape[3] == width, pool.shape
    assert qkv.shape == (rows, 3 * inner) and gate.shape == (rows, inner) and norm.shape == (inner,), qkv.shape
    assert slopes.shape == (heads,) and states.index.shape == (rows,) and states.index.is_contiguous()
    if width % 16 or not 16 <= width <= _WIDEST:
        raise ValueError(f"states are {list(pool.shape)}: head widths are multiples of 16 up to {_WIDEST} here")
    if qkv.dtype not in FLOATS or not qkv.dtype == gate.dtype == norm.dtype:
        kinds = f"{qkv.dtype}, {gate.dtype}, {norm.dtype}"
        raise ValueError(f"qkv {list(qkv.shape)}, gate, norm are {kinds}; all are one of {FLOATS}")
    assert qkv.stride(1) == gate.stride(1) == norm.stride(0) == 1
    assert not (torch.is_grad_enabled() and (qkv.requires_grad or gate.requires_grad)), "a decode step has no gradient"
    out = gate.new_empty(rows, inner)
    if rows == 0:
        return out
    tiles = tiles or choose_tiles(heads, width)
    arrived = torch.zeros_like(states.index, dtype=torch.int32) if states.arrived is None else states.arrived
    assert arrived.dtype == torch.int32 and len(arrived) >= rows
    kernel[(rows * heads * triton.cdiv(width, tiles.columns),)](
        qkv,
        gate,
        norm,
        slopes,
        pool,
        states.index,
        out,
        arrived,
        qkv.stride(0),
        gate.stride(0),
        eps,
        H=heads,
        D=width,
        P=triton.next_power_of_2(width),
        W=tiles.columns,
        R=triton.next_power_of_2(inner),
        num_warps=tiles.warps,
    )
    return out


@triton.jit
def kernel(
    qkv,  # [N, 3HD]
    gate,  # [N, HD]
    norm,  # [HD]
    slopes,  # [H]
    pool,  # [S, H, D, D]
    index,  # [N]
    out,  # [N, HD]
    arrived,  # [N] programs of a row that have written their part of it
    qkv_row,
    gate_row,
    eps,
    H: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,  # D, rounded up to a power of two
    W: tl.constexpr,
    R: tl.constexpr,  # HD, rounded up to a power of two
):
    """S = λ S + kᵀ v and o = q S for W columns of one head; then, once a row, its norm over all heads and its gate."""
    SLICES: tl.constexpr = (D + W - 1) // W
    program = tl.program_id(0)
    row = (program // (SLICES * H)).to(tl.int64)
    head = program // SLICES % H
    kind: tl.constexpr = out.dtype.element_ty
    wide = tl.arange(0, P)
    columns = program % SLICES * W + tl.arange(0, W)
    real = (wide < D)[:, None] if D % W == 0 else (wide < D)[:, None] & (columns < D)[None, :]
    slot = tl.load(index + row).to(tl.int64)
    here = qkv + row * qkv_row + head * 3 * D
    q = tl.load(here + wide, mask=wide < D, other=0.0)
    k = tl.load(here + D + wide, mask=wide < D, other=0.0)
    v = tl.load(here + 2 * D + columns, mask=columns < D, other=0.0)
    out_row = out + row * (H * D)
    if slot < 0:
        tl.store(out_row + head * D + columns, tl.zeros((W,), kind), mask=columns < D)
    else:
        at = pool + (slot * H + head) * (D * D) + wide[:, None] * D + columns[None, :]  # [P, W]
        state = tl.load(at, mask=real, other=0.0, eviction_policy="evict_first")
        state = state * tl.exp(-tl.load(slopes + head).to(tl.float32)) + _silu(k)[:, None] * _silu(v)[None, :]
        tl.store(at, state, mask=real, eviction_policy="evict_first")
        mixed = tl.sum(_silu(q)[:, None] * state, 0)  # [W]
        tl.store(out_row + head * D + columns, mixed.to(kind), mask=columns < D)
        # The barrier puts the stores of all threads before the addition of one, which releases them to the whole GPU;
        # whoever then finds all others counted has acquired their stores. What it reads back comes from L2, where
        # they are: its own L1 may hold lines from before.
        tl.debug_barrier()
        if tl.atomic_add(arrived + row, 1, sem="acq_rel") == SLICES * H - 1:
            tl.store(arrived + row, 0)
            places = tl.arange(0, R)
            there = places < H * D
            x = tl.load(out_row + places, mask=there, other=0.0, cache_modifier=".cg").to(tl.float32)
            weight = tl.load(norm + places, mask=there, other=0.0).to(tl.float32)
            opened = tl.load(gate + row * gate_row + places, mask=there, other=0.0).to(tl.float32)
            scale = tl.rsqrt(tl.sum(x * x) / (H * D) + eps)
            normed = (weight * (x * scale).to(kind).to(tl.float32)).to(kind).to(tl.float32)
            opened = (1 / (1 + tl.exp(-opened))).to(kind).to(tl.float32)
            tl.store(out_row + places, (normed * opened).to(kind), mask=there)


@triton.jit
def _silu(x):
    """Rounded to x's dtype, as when it is an op of its own."""
    wide = x.to(tl.float32)
    return (wide / (1 + tl.exp(-wide))).to(x.dtype).to(tl.float32)
