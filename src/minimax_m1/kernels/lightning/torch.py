"""Lightning attention in blocks: matrix products inside a block, one state carried from block to block.

In and out as in reference.py. Sequences of one token take one step of the recurrence. The others are cut into blocks
of 16 to 256 tokens (the size with the least work for the lengths at hand). States are float32 or better; bfloat16
tokens meet each other in bfloat16. The backward is written by hand: it keeps q, k, v and one state a block, so its
memory grows with T and not with T squared. The slopes are constants, not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.segments import Blocks, Segments

Op = Callable[[Tensor, Tensor, Tensor, Tensor, Segments, Tensor], tuple[Tensor, Tensor]]
_SIZES = (16, 32, 64, 128, 256)  # MiniMax-01 section 3.3: several block sizes, the least padding wins
# Costs in units of multiply-adds a head, measured on two CPU cores.
_SCAN_STEP = 20_000
_STATE_ENTRY = 64  # a block writes, carries and reads a state of width squared entries


@eager
def lightning(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Block algorithm; gradients for q, k, v and states equal the reference's."""
    assert q.shape == k.shape == v.shape and len(states) == len(segments)
    assert states.dtype == torch.promote_types(q.dtype, torch.float32), "the state is float32 or better"
    if segments.total == 0:
        return torch.zeros_like(q), states
    if segments.parts(q.device):
        return separately(lightning, q, k, v, slopes, segments, states)
    with torch.autocast(q.device.type, enabled=False):  # the state is float32, whoever calls
        if segments.single_tokens:
            return _step(q, k, v, slopes, states)
        blocks = segments.blocks(block_size(segments, q.shape[-1]), q.device)
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, states)):
            out, ends = _Blockwise.apply(q, k, v, slopes, states, blocks)
            return out, ends
        run = _forward(q, k, v, slopes, states, blocks)
        return run.out, run.ends


def separately(
    op: Op, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs sequences of one token apart from the others, which need blocks (MiniMax-01, section 3.3)."""
    out, ends = torch.empty_like(q), torch.empty_like(states)
    for part in segments.parts(q.device):
        rows, past = part.rows, states[part.sequences]
        out[rows], ends[part.sequences] = op(q[rows], k[rows], v[rows], slopes, part.segments, past)
    return out, ends


def block_size(segments: Segments, width: int) -> int:
    """The block size that costs least for these lengths: padded rows times (block + width), states, and the scan."""

    def cost(size: int) -> int:
        counts = [-(-length // size) for length in segments.lengths]
        block = size * 2 * (size + 2 * width) * width + _STATE_ENTRY * width * width
        return sum(counts) * block + max(counts) * _SCAN_STEP

    return min(_SIZES, key=cost)


def _step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """One token a sequence: an outer product and a read, T = N."""
    k, v = k.to(states.dtype), v.to(states.dtype)
    decay = torch.exp(-slopes.to(states.dtype))[:, None, None]
    ends = torch.addcmul(states * decay, k.unsqueeze(-1), v.unsqueeze(-2))  # [N, H, D, D]
    out = torch.matmul(q.unsqueeze(-2).to(states.dtype), ends).squeeze(-2)  # [N, H, D]
    return out.to(q.dtype), ends


def _scan(states: Tensor, pushed: Tensor, decays: _Decays, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """The state before each block, [NB, H, D, D], and after each sequence, [N, H, D, D]."""
    before = torch.empty_like(pushed)
    carry = states[blocks.order]  # a copy: the caller's states stay as they are
    for first, count in blocks.levels:
        here = slice(first, first + count)
        before[here] = carry[:count]
        carry[:count].mul_(decays.block[here]).add_(pushed[here])
    ends = torch.empty_like(carry)
    ends[blocks.order] = carry
    return before, ends


class _Run(NamedTuple):
    """Outputs and states; then, as a backward reads them, q, k, v [NB, H, B, D] and the states before each block."""

    out: Tensor
    ends: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    before: Tensor


def _forward(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, states: Tensor, blocks: Blocks) -> _Run:
    """o = (q kᵀ ⊙ D) v + (q ⊙ λʲ) S and S' = λᵐ S + (k ⊙ λᵐ⁻ʲ)ᵀ v for each block of m tokens.

    bfloat16 tokens meet each other in bfloat16, in less than half the time. What goes into a state is float32 all the
    same, so that states come out as accurate; scores, and states where they are read, are rounded. Outputs are then off
    by 2.7e-3 of their norm, and by 1.7e-3 where only the outputs themselves are rounded.
    """
    low = q.dtype if q.dtype is torch.bfloat16 else states.dtype
    q_, k_, v_ = (_to_blocks(x, blocks, low) for x in (q, k, v))
    decays = _Decays(slopes.to(states.dtype), blocks)
    pushed = (k_ * decays.key).transpose(-1, -2) @ v_.to(states.dtype)  # [NB, H, D, D]
    before, ends = _scan(states, pushed, decays, blocks)
    before = before.to(low)
    scores = (q_ @ k_.transpose(-1, -2)).mul_(decays.within.to(low))
    out = (q_ * decays.query.to(low)) @ before
    out += scores @ v_
    return _Run(_from_blocks(out, blocks, q.dtype), ends, q_, k_, v_, before)


class _Blockwise(torch.autograd.Function):
    """`_forward` with its gradients. In bfloat16 the states' gradients are added up in float32."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, states: Tensor, blocks: Blocks
    ) -> tuple[Tensor, Tensor]:
        run = _forward(q, k, v, slopes, states, blocks)
        ctx.save_for_backward(run.q, run.k, run.v, run.before, slopes)
        ctx.blocks, ctx.dtype = blocks, q.dtype
        ctx.set_materialize_grads(False)
        return run.out, run.ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, before, slopes = ctx.saved_tensors
        blocks, dtype, low = ctx.blocks, ctx.dtype, q.dtype
        accurate = torch.promote_types(low, torch.float32)
        decays = _Decays(slopes.to(accurate), blocks)
        by_query, by_key, within = (x.to(low) for x in (decays.query, decays.key, decays.within))
        grad = torch.zeros_like(q) if grads[0] is None else _to_blocks(grads[0], blocks, low)
        pulled = ((q * by_query).transpose(-1, -2) @ grad).to(accurate)  # [NB, H, D, D]
        after = torch.empty_like(pulled)  # gradient of the state that leaves each block
        carry = pulled.new_zeros(len(blocks.order), *pulled.shape[1:]) if grads[1] is None else grads[1][blocks.order]
        for first, count in reversed(blocks.levels):
            here = slice(first, first + count)
            after[here] = carry[:count]
            carry[:count].mul_(decays.block[here]).add_(pulled[here])
        d_states = None
        if ctx.needs_input_grad[4]:
            d_states = torch.empty_like(carry)
            d_states[blocks.order] = carry
        after = after.to(low)
        d_scores = (grad @ v.transpose(-1, -2)).mul_(within)
        d_q = (grad @ before.transpose(-1, -2)).mul_(by_query)
        d_q += d_scores @ k
        d_k = (v @ after.transpose(-1, -2)).mul_(by_key)
        d_k += d_scores.transpose(-1, -2) @ q
        scores = (q @ k.transpose(-1, -2)).mul_(within)
        d_v = (k * by_key) @ after
        d_v += scores.transpose(-1, -2) @ grad
        d_q, d_k, d_v = (_from_blocks(x, blocks, dtype) for x in (d_q, d_k, d_v))
        return d_q, d_k, d_v, None, d_states, None


class _Decays:
    """Powers of each head's λ = exp(-slope) that one block needs; j counts from 1, m is the block's real length."""

    def __init__(self, slopes: Tensor, blocks: Blocks) -> None:
        j = torch.arange(1, blocks.size + 1, device=slopes.device, dtype=slopes.dtype)
        m = blocks.lengths.to(slopes.dtype)[:, None]
        gap = (j[:, None] - j).clamp(min=0)
        self.query = torch.exp(-slopes[:, None] * j)[..., None]  # λʲ, [H, B, 1]
        self.key = torch.exp(-slopes[:, None] * (m - j).clamp(min=0)[:, None])[..., None]  # λᵐ⁻ʲ, [NB, H, B, 1]
        self.block = torch.exp(-slopes * m)[..., None, None]  # λᵐ, [NB, H, 1, 1]
        self.within = torch.exp(-slopes[:, None, None] * gap).tril()  # λ^(i-j) for i >= j, [H, B, B]


def _to_blocks(x: Tensor, blocks: Blocks, dtype: torch.dtype) -> Tensor:
    """Packed [T, H, D] to [NB, H, B, D], zeros where a block is longer than its sequence."""
    tokens, heads, width = x.shape
    if blocks.gather is None:
        return x.view(-1, blocks.size, heads, width).transpose(1, 2).to(dtype).contiguous()
    rows = blocks.gather.clamp(max=tokens - 1).view(-1, 1, blocks.size)
    rows = rows * heads + torch.arange(heads, device=x.device)[:, None]  # [NB, H, B] into [T H]
    out = x.flatten(0, 1).index_select(0, rows.flatten()).view(-1, heads, blocks.size, width)
    out.transpose(1, 2)[blocks.padding // blocks.size, blocks.padding % blocks.size] = 0
    return out.to(dtype)


def _from_blocks(x: Tensor, blocks: Blocks, dtype: torch.dtype) -> Tensor:
    """[NB, H, B, D] back to packed [T, H, D]."""
    count, heads, size, width = x.shape
    if blocks.scatter is None:
        return x.transpose(1, 2).reshape(count * size, heads, width).to(dtype)
    rows = (blocks.scatter // size * (heads * size) + blocks.scatter % size)[:, None]
    rows = rows + size * torch.arange(heads, device=x.device)  # [T, H] into [NB H B]
    return x.flatten(0, 2).index_select(0, rows.flatten()).view(-1, heads, width).to(dtype)
