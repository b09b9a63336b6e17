"""Mixture of experts, sorted and grouped: tokens are laid out expert by expert, one product a used expert.

In and out as in reference.py. The loop runs over experts that have tokens, never over tokens. The backward is
written by hand: gradients of stacked expert weights are filled slice by slice, without a zero tensor for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.moe.route import DROPPED
from minimax_m1.kernels.quantized import Int8, dense, product


@eager
def moe(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
    """Weighted sum of the chosen experts; gradients equal the reference's, but none goes through int8 weights."""
    if len(x) == 1 and not torch.is_grad_enabled():
        return _one_token(x, experts, weights, w13, w2)
    if isinstance(w13, Int8) or isinstance(w2, Int8):
        return _grouped(_Plan(experts, len(w13)), x, weights.to(x.dtype), w13, w2)[0]
    if torch.is_autocast_enabled(x.device.type):  # a Function of our own is not cast by torch
        low = torch.get_autocast_dtype(x.device.type)
        x, w13, w2 = x.to(low), w13.to(low), w2.to(low)
    return _Grouped.apply(x, experts, weights.to(x.dtype), w13, w2)  # type: ignore[no-any-return]


def _one_token(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> Tensor:
    """A decode step of one sequence: nothing to sort, K pairs of matrix-vector products."""
    out = torch.zeros_like(x)
    for expert, weight in zip(experts[0].tolist(), weights[0].tolist(), strict=True):
        if expert != DROPPED:
            gate, up = torch.mm(x, dense(w13[expert], x.dtype).T).chunk(2, -1)
            out.addmm_(silu(gate).mul_(up), dense(w2[expert], x.dtype).T, alpha=weight)
    return out


class _Plan:
    """The sort: `order` [R] entry (token * K + slot) of each sorted row, and the slice of rows of each used expert."""

    def __init__(self, experts: Tensor, count: int) -> None:
        flat = experts.flatten()
        self.order = torch.argsort(flat, stable=True)
        sizes = torch.bincount(flat - DROPPED, minlength=count + 1).tolist()  # dropped entries are sorted first
        self.groups: list[tuple[int, slice]] = []
        self.dropped = at = sizes[0]
        for expert, size in enumerate(sizes[1:]):
            if size:
                self.groups.append((expert, slice(at, at + size)))
            at += size
        self.rows = self.order // experts.shape[1]  # token of each sorted row
        self.inverse = torch.empty_like(self.order)
        self.inverse[self.order] = torch.arange(len(self.order), device=experts.device)


def _grouped(plan: _Plan, x: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8) -> tuple[Tensor, ...]:
    """The weighted sum [T, M]; then what a backward needs: inputs [R, M], hidden [R, 2F] and outputs of the rows."""
    rows = x.index_select(0, plan.rows)
    hidden = rows.new_empty(len(rows), w13.shape[1])
    out = torch.empty_like(rows)
    out[: plan.dropped] = 0
    for expert, here in plan.groups:
        _multiply(rows[here], w13[expert], hidden[here])
        gate, up = hidden[here].chunk(2, -1)
        _multiply(silu(gate).mul_(up), w2[expert], out[here])
    slots = out.index_select(0, plan.inverse).view(*weights.shape, x.shape[1])  # [T, K, M]
    return torch.einsum("tkm,tk->tm", slots, weights), rows, hidden, out


def _multiply(rows: Tensor, weight: Tensor | Int8, out: Tensor) -> None:
    if isinstance(weight, Int8):
        product(rows, weight, out)
    else:
        torch.mm(rows, dense(weight, rows.dtype).T, out=out)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        plan = _Plan(experts, len(w13))
        mixed, rows, hidden, out = _grouped(plan, x, weights, w13, w2)
        ctx.save_for_backward(rows, hidden, out, weights, w13, w2)
        ctx.plan = plan
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, out, weights, w13, w2 = ctx.saved_tensors
        plan: _Plan = ctx.plan
        pulled = grads[0].index_select(0, plan.rows)  # [R, M]
        d_weights = (pulled * out).sum(-1).index_select(0, plan.inverse).view_as(weights)
        pulled *= weights.flatten()[plan.order, None]
        d_w13, d_w2 = torch.zeros_like(w13), torch.zeros_like(w2)
        d_rows, d_hidden = torch.zeros_like(rows), torch.empty_like(hidden)
        for expert, here in plan.groups:
            gate, up = hidden[here].chunk(2, -1)
            d_act = pulled[here] @ w2[expert]  # [r, F]
            sigmoid = gate.sigmoid()
            act = gate * sigmoid
            torch.mm(pulled[here].T, act * up, out=d_w2[expert])
            d_gate, d_up = d_hidden[here].chunk(2, -1)
            torch.mul(d_act, act, out=d_up)
            torch.mul(d_act * up, sigmoid + act * (1 - sigmoid), out=d_gate)
            torch.mm(d_hidden[here].T, rows[here], out=d_w13[expert])
            torch.mm(d_hidden[here], w13[expert], out=d_rows[here])
        d_x = d_rows.index_select(0, plan.inverse).view(*weights.shape, rows.shape[1]).sum(1)
        return d_x, None, d_weights, d_w13, d_w2
