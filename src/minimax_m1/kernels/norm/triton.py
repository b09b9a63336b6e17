"""RMSNorm on a GPU: alone, after a scaled sum and before a gate, each in one pass over memory, with gradients.

In and out as in reference.py; float32, bfloat16 or float16, rows of up to 16,384 numbers, which may lie apart.
A program holds whole rows in registers, padded to a power of two: at a width of 6,144 a quarter of the lanes idle, and
what is left does the arithmetic in a third of the time that memory takes. Nothing is kept for the backward but inputs.
The weight's gradient is added up by each program over its rows, then over the programs, in float32 and a fixed order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS, MULTIPROCESSORS

_WIDEST = 16_384


class Tiles(NamedTuple):
    """What one program holds: `rows` rows of `padded` numbers, in `warps` warps. With 2 `stages` the next row is on
    its way meanwhile."""

    rows: int
    padded: int
    warps: int
    stages: int = 1


@eager
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., M] / sqrt(mean(x²) + eps) * weight [M]; ValueError for a width or dtype that is not supported."""
    _check(x, weight)
    out: Tensor = _Norm.apply(x, None, None, weight, 1.0, 1.0, eps)[1]
    return out


@eager
def add_rms_norm(
    residual: Tensor, branch: Tensor, alpha: float, beta: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x = alpha residual + beta branch, rounded once, and x normed; both [..., M]. Errors as for `rms_norm`."""
    assert residual.shape == branch.shape, f"residual {list(residual.shape)}, branch {list(branch.shape)}"
    _check(residual, weight, branch)
    total, out = _Norm.apply(residual, branch, None, weight, alpha, beta, eps)
    return total, out


@eager
def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x normed, times sigmoid(gate); all [..., M]. Errors as for `rms_norm`."""
    assert x.shape == gate.shape, f"x {list(x.shape)}, gate {list(gate.shape)}"
    _check(x, weight, gate)
    out: Tensor = _Norm.apply(x, None, gate, weight, 1.0, 1.0, eps)[1]
    return out


def forward_tiles(width: int) -> Tiles:
    """4,096 numbers or one row, at 32 numbers a lane: of bfloat16, four loads of 16 bytes are under way at once."""
    padded = max(16, triton.next_power_of_2(width))
    rows = max(1, 4096 // padded)
    return Tiles(rows, padded, max(4, rows * padded // 1024))


def backward_tiles(width: int) -> Tiles:
    """8 numbers a lane, 16 of long rows, since it also holds the weight and what it has added up for its gradient. A
    long row fills most of a multiprocessor's registers, so that the next must come meanwhile; one of more than 8,192
    numbers spills some."""
    padded = max(16, triton.next_power_of_2(width))
    rows = max(1, 1024 // padded)
    return Tiles(rows, padded, min(16, max(4, rows * padded // 512)), 2 if rows == 1 and padded <= 8192 else 1)


def backward_programs(blocks: int, tiles: Tiles) -> int:
    """Programs that share the blocks of rows: as many as all multiprocessors hold at once, if there is work for all."""
    return min(blocks, MULTIPROCESSORS * (32 if tiles.rows > 1 else 16) // tiles.warps)


def _check(x: Tensor, weight: Tensor, *others: Tensor) -> None:
    assert weight.shape == x.shape[-1:], f"x {list(x.shape)} does not fit weight {list(weight.shape)}"
    if not 0 < x.shape[-1] <= _WIDEST:
        raise ValueError(f"a norm of x {list(x.shape)} is not supported: rows of 1 to {_WIDEST} numbers are")
    kinds = [each.dtype for each in (x, weight, *others)]
    if not set(kinds) <= set(FLOATS):
        raise ValueError(f"a norm of x {list(x.shape)} in {kinds} is not supported: float32, bfloat16 and float16 are")


def _rows(x: Tensor) -> Tensor:
    """x [..., M] as [R, M] with its numbers side by side; a view wherever one will do."""
    rows = x.reshape(x.numel() // x.shape[-1], x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


class _Norm(torch.autograd.Function):
    """x or alpha x + beta branch, and that normed, times sigmoid(gate) where there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        branch: Tensor | None,
        gate: Tensor | None,
        weight: Tensor,
        alpha: float,
        beta: float,
        eps: float,
    ) -> tuple[Tensor | None, Tensor]:
        kind = x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)
        out_kind = torch.promote_types(kind, weight.dtype)
        if gate is not None:
            out_kind = torch.promote_types(out_kind, gate.dtype)
        total = None if branch is None else x.new_empty(x.shape, dtype=kind)
        out = x.new_empty(x.shape, dtype=out_kind)
        inputs, others, gates = (None if each is None else _rows(each) for each in (x, branch, gate))
        assert inputs is not None
        tiles = forward_tiles(x.shape[-1])
        if len(inputs):
            _forward[(triton.cdiv(len(inputs), tiles.rows),)](
                inputs,
                others,
                gates,
                weight.contiguous(),
                total,
                out,
                inputs.stride(0),
                0 if others is None else others.stride(0),
                0 if gates is None else gates.stride(0),
                alpha,
                beta,
                eps,
                len(inputs),
                WIDTH=x.shape[-1],
                PADDED=tiles.padded,
                ROWS=tiles.rows,
                num_warps=tiles.warps,
            )
        ctx.save_for_backward(x if total is None else total, gate, weight)
        ctx.scales, ctx.eps, ctx.dtypes = (alpha, beta), eps, (x.dtype, None if branch is None else branch.dtype)
        ctx.set_materialize_grads(False)
        return total, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor | None, d_out: Tensor | None) -> tuple[Tensor | None, ...]:
        x, gate, weight = ctx.saved_tensors
        for_x, for_branch, for_gate, for_weight = ctx.needs_input_grad[:4]
        width, (kind, branch_kind) = x.shape[-1], ctx.dtypes
        tiles = backward_tiles(width)
        blocks = triton.cdiv(x.numel() // width, tiles.rows)
        programs = backward_programs(blocks, tiles)
        d_x = x.new_empty(x.shape, dtype=kind) if for_x else None
        d_branch = x.new_empty(x.shape, dtype=branch_kind) if for_branch else None
        d_gate = x.new_empty(x.shape, dtype=gate.dtype) if for_gate else None
        parts = x.new_empty(programs, width, dtype=torch.float32) if for_weight else None
        inputs, d_outs = _rows(x), _rows(torch.zeros_like(x) if d_out is None else d_out)
        gates, d_totals = (None if each is None else _rows(each) for each in (gate, d_total))
        if programs:
            _backward[(programs,)](
                inputs,
                gates,
                weight.contiguous(),
                d_outs,
                d_totals,
                d_x,
                d_branch,
                d_gate,
                parts,
                inputs.stride(0),
                0 if gates is None else gates.stride(0),
                d_outs.stride(0),
                0 if d_totals is None else d_totals.stride(0),
                *ctx.scales,
                ctx.eps,
                len(inputs),
                WIDTH=width,
                PADDED=tiles.padded,
                ROWS=tiles.rows,
                STAGES=tiles.stages,
                num_warps=tiles.warps,
            )
        d_weight = None if parts is None else parts.sum(0).to(weight.dtype)
        return d_x, d_branch, d_gate, d_weight, None, None, None


@triton.jit
def _forward(
    x_ptr,
    branch_ptr,
    gate_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    x_stride,
    branch_stride,
    gate_stride,
    alpha,
    beta,
    eps,
    rows,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None].to(tl.int64)  # [ROWS, 1]
    column = tl.arange(0, PADDED)[None, :]  # [1, PADDED]
    here = (row < rows) & (column < WIDTH)
    weight = tl.load(weight_ptr + column, column < WIDTH, 0.0).to(tl.float32)
    x = tl.load(x_ptr + row * x_stride + column, here, 0.0)
    if branch_ptr is not None:
        branch = tl.load(branch_ptr + row * branch_stride + column, here, 0.0)
        x = (alpha * x.to(tl.float32) + beta * branch.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * WIDTH + column, x, here)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / WIDTH + eps)  # [ROWS]
    # Rounded to x's dtype before its product with the weight, as the published model does.
    out = (wide * scale[:, None]).to(x.dtype).to(tl.float32) * weight
    if gate_ptr is not None:
        gate = tl.load(gate_ptr + row * gate_stride + column, here, 0.0)
        sigmoid = tl.sigmoid(gate.to(tl.float32)).to(gate.dtype)
        out = out.to(out_ptr.dtype.element_ty).to(tl.float32) * sigmoid.to(tl.float32)
    tl.store(out_ptr + row * WIDTH + column, out.to(out_ptr.dtype.element_ty), here)


@triton.jit
def _backward(
    x_ptr,
    gate_ptr,
    weight_ptr,
    d_out_ptr,
    d_total_ptr,
    d_x_ptr,
    d_branch_ptr,
    d_gate_ptr,
    parts_ptr,
    x_stride,
    gate_stride,
    d_out_stride,
    d_total_stride,
    alpha,
    beta,
    eps,
    rows,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, PADDED)[None, :]  # [1, PADDED]
    weight = tl.load(weight_ptr + column, column < WIDTH, 0.0).to(tl.float32)
    d_weight = tl.zeros([ROWS, PADDED], tl.float32)
    for block in tl.range(program, tl.cdiv(rows, ROWS), programs, num_stages=STAGES):
        row = block * ROWS + tl.arange(0, ROWS)[:, None].to(tl.int64)  # [ROWS, 1]
        here = (row < rows) & (column < WIDTH)
        x = tl.load(x_ptr + row * x_stride + column, here, 0.0).to(tl.float32)
        pull = tl.load(d_out_ptr + row * d_out_stride + column, here, 0.0).to(tl.float32)
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + row * gate_stride + column, here, 0.0).to(tl.float32)
            sigmoid = tl.sigmoid(gate)
            pull *= sigmoid
        # Both sums at once: neither waits for the other.
        scale = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None]  # [ROWS, 1]
        along = (tl.sum(pull * weight * x, 1) / WIDTH)[:, None] * scale
        normed = x * scale
        if d_gate_ptr is not None:
            d_gate = pull * normed * weight * (1 - sigmoid)
            tl.store(d_gate_ptr + row * WIDTH + column, d_gate.to(d_gate_ptr.dtype.element_ty), here)
        if parts_ptr is not None:
            d_weight += pull * normed
        d_x = scale * (pull * weight - normed * along)
        if d_total_ptr is not None:
            d_x += tl.load(d_total_ptr + row * d_total_stride + column, here, 0.0).to(tl.float32)
        if d_x_ptr is not None:
            tl.store(d_x_ptr + row * WIDTH + column, (alpha * d_x).to(d_x_ptr.dtype.element_ty), here)
        if d_branch_ptr is not None:
            tl.store(d_branch_ptr + row * WIDTH + column, (beta * d_x).to(d_branch_ptr.dtype.element_ty), here)
    if parts_ptr is not None:
        column = tl.arange(0, PADDED)
        tl.store(parts_ptr + program * WIDTH + column, tl.sum(d_weight, 0), column < WIDTH)
