"""Mixture of experts, sorted and grouped: tokens are laid out expert by expert, one product a used expert.

In and out as in reference.py. The loop runs over experts that have tokens, never over tokens. The backward is
written by hand: gradients of stacked expert weights are filled slice by slice, without a zero tensor for each, and
those of the routing weights come from the hidden activations, so that no expert's output is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, silu

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.moe.route import DROPPED
from minimax_m1.kernels.quantized import Int8, product
from minimax_m1.kernels.scaled import dense

# oneDNN builds code for each new shape of a bfloat16 product, 0.3 ms on one core, and remembers 1,024 of them. Numbers
# of rows that no two experts and no two steps share are therefore rounded up, to one of 2 to this power in each octave.
_OCTAVE_BITS = 3


@eager
def moe(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
    """Weighted sum of the chosen experts; gradients equal the reference's, but none goes through int8 weights."""
    if len(x) == 1 and not torch.is_grad_enabled():
        return _one_token(x, experts, weights, w13, w2)
    if isinstance(w13, Int8) or isinstance(w2, Int8):
        return _grouped(_Plan(experts, len(w13)), x, weights.to(x.dtype), w13, w2)
    if torch.is_autocast_enabled(x.device.type):  # a Function of our own is not cast by torch
        low = torch.get_autocast_dtype(x.device.type)
        x, w13, w2 = x.to(low), w13.to(low), w2.to(low)
    weights = weights.to(x.dtype)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weights, w13, w2)):
        return _Grouped.apply(x, experts, weights, w13, w2)  # type: ignore[no-any-return]
    return _grouped(_Plan(experts, len(w13)), x, weights, w13, w2)


def _one_token(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
    """A decode step of one sequence: nothing to sort, K pairs of matrix-vector products."""
    out = torch.zeros_like(x)
    for expert, weight in zip(experts[0].tolist(), weights[0].tolist(), strict=True):
        if expert != DROPPED:
            gate, up = torch.mm(x, dense(w13[expert], x.dtype).T).chunk(2, -1)
            out.addmm_(silu(gate).mul_(up), dense(w2[expert], x.dtype).T, alpha=weight)
    return out


class _Plan:
    """The sort: `order` [R] entry (token * K + slot) of each sorted row, and the slice of rows of each used expert.

    With `rounded`, a slice may end in rows of no entry, which repeat one, and R is greater than T K.
    """

    def __init__(self, experts: Tensor, count: int, *, rounded: bool = False) -> None:
        flat = experts.flatten()
        self.order = entries = torch.argsort(flat, stable=True)
        sizes = torch.bincount(flat - DROPPED, minlength=count + 1).tolist()  # dropped entries are sorted first
        room = [size if not rounded or at == 0 else _rounded(size) for at, size in enumerate(sizes)]
        self.groups: list[tuple[int, slice]] = []
        self.dropped = at = sizes[0]
        for expert, size in enumerate(room[1:]):
            if size:
                self.groups.append((expert, slice(at, at + size)))
            at += size
        places = torch.arange(len(entries), device=experts.device)  # row of each sorted entry
        if rounded:
            ends = torch.tensor([sizes, room], device=experts.device).cumsum(1)
            shift = (ends[1] - ends[0]).roll(1)  # rows of no entry before each expert's
            shift[0] = 0
            places = places + shift.repeat_interleave(torch.tensor(sizes, device=experts.device))
            order = entries.new_zeros(at)
            order[places] = entries
            self.order = order
        self.inverse = torch.empty_like(entries)
        self.inverse[entries] = places
        self.places = places
        self.rows = self.order // experts.shape[1]  # token of each sorted row


def _rounded(size: int) -> int:
    """0, or the next of the eight sizes between two powers of two."""
    step = 1 << max(0, size.bit_length() - 1 - _OCTAVE_BITS)
    return -(-size // step) * step


def _grouped(plan: _Plan, x: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
    """The weighted sum [T, M]."""
    rows = x.index_select(0, plan.rows)
    hidden = rows.new_empty(len(rows), w13.shape[1])
    out = torch.empty_like(rows)
    out[: plan.dropped] = 0
    for expert, here in plan.groups:
        _multiply(rows[here], w13[expert], hidden[here])
        gate, up = hidden[here].chunk(2, -1)
        _multiply(silu(gate).mul_(up), w2[expert], out[here])
    slots = out.index_select(0, plan.inverse).view(*weights.shape, x.shape[1])  # [T, K, M]
    return torch.einsum("tkm,tk->tm", slots, weights)


def _multiply(rows: Tensor, weight: Tensor | Int8, out: Tensor) -> None:
    if isinstance(weight, Int8):
        product(rows, weight, out)
    else:
        torch.mm(rows, dense(weight, rows.dtype).T, out=out)


class _Grouped(torch.autograd.Function):
    """As `_grouped`, with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        plan = _Plan(experts, len(w13), rounded=x.is_cpu and x.dtype is torch.bfloat16)
        rows = x.index_select(0, plan.rows)
        hidden, out = rows.new_empty(len(rows), w13.shape[1]), torch.empty_like(rows)
        out[: plan.dropped] = 0
        for expert, here in plan.groups:
            torch.mm(rows[here], w13[expert].T, out=hidden[here])
            gate, up = hidden[here].chunk(2, -1)
            torch.mm(silu(gate).mul_(up), w2[expert].T, out=out[here])
        ctx.save_for_backward(rows, hidden, weights, w13, w2)
        ctx.plan = plan
        return embedding_bag(plan.inverse.view_as(weights), out, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, weights, w13, w2 = ctx.saved_tensors
        plan: _Plan = ctx.plan
        pulled = grads[0].index_select(0, plan.rows)  # [R, M], of each row as if its weight were 1
        share = weights.new_zeros(len(rows), 1)  # 0 where a row is no entry's
        share[plan.places] = weights.flatten()[plan.order[plan.places], None]
        # Under adapters the experts are frozen, and half of the products below are not needed.
        d_w13, d_w2 = (
            torch.empty_like(w) if needed else None
            for w, needed in zip((w13, w2), ctx.needs_input_grad[3:], strict=True)
        )
        unused = sorted(set(range(len(w13))) - {expert for expert, _ in plan.groups})
        for d_w in (d_w13, d_w2):
            if d_w is not None:
                d_w[unused] = 0
        d_rows, d_share = torch.empty_like(rows), torch.empty_like(share)
        d_rows[: plan.dropped], d_share[: plan.dropped] = 0, 0
        for expert, here in plan.groups:
            gate, up = hidden[here].chunk(2, -1)
            sigmoid = gate.sigmoid()
            act = gate * sigmoid
            mixed = act * up
            d_mixed = pulled[here] @ w2[expert]  # [r, F]
            torch.sum(d_mixed * mixed, -1, keepdim=True, out=d_share[here])
            if d_w2 is not None:
                torch.mm(pulled[here].T, mixed.mul_(share[here]), out=d_w2[expert])
            d_mixed *= share[here]
            d_hidden = torch.empty_like(hidden[here])
            d_gate, d_up = d_hidden.chunk(2, -1)
            torch.mul(d_mixed, act, out=d_up)
            slope = torch.addcmul(sigmoid, act, 1 - sigmoid)  # of silu
            torch.mul(d_mixed.mul_(up), slope, out=d_gate)
            if d_w13 is not None:
                torch.mm(d_hidden.T, rows[here], out=d_w13[expert])
            torch.mm(d_hidden, w13[expert], out=d_rows[here])
        d_x = embedding_bag(plan.inverse.view_as(weights), d_rows, mode="sum")
        d_weights = d_share.flatten().index_select(0, plan.inverse).view_as(weights)
        return d_x, None, d_weights, d_w13, d_w2
