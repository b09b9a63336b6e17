"""The head in tiles of rows by tokens, so that R x V logits never live at once.

In and out as in reference.py. A tile is up to 16,384 tokens wide and has at most 32 MB of float32 logits; a second
tile holds their exponentials. Tokens are the outer loop, so that the weight is brought to float32, and its gradient
is summed up, one slice at a time, in products that are tall enough to be fast.
The backward works the logits out anew: the gradient of the weight needs every row's own, which only the backward
knows, so working it out in the forward (as losses do that end in one number) would not do for log-probs. That is one
product in four; where all rows fit one tile its exponentials are kept instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.head.reference import Scores

_WIDE = 16_384  # tokens of a tile: 0.4 GB of float32 weights at M1's width
_TILE = 2**23  # most logits of a tile


@eager
def logprobs(x: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """Scores of `targets` [R] int64, each below V; gradients equal the reference's."""
    assert x.dim() == weight.dim() == 2 and targets.shape == x.shape[:1]
    return Scores(*_Scored.apply(x, weight, targets))


class _Scored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kind = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
        columns, rows = _tiles(len(x), len(weight))
        shape = len(columns), len(x)
        log_sums, means, tops = (torch.empty(shape, dtype=kind, device=x.device) for _ in range(3))
        likeliest = torch.empty(shape, dtype=torch.long, device=x.device)
        chosen = torch.full((len(x),), float("nan"), dtype=kind, device=x.device)  # stays so where a target is no token
        kept = None
        with torch.autocast(x.device.type, enabled=False):
            for n, column in enumerate(columns):
                block = weight[column].to(kind)
                for row in rows:
                    logits = x[row].to(kind) @ block.T
                    top, at = logits.max(-1)
                    tops[n, row], likeliest[n, row] = top, at
                    inside, places = _within(targets[row], column)
                    chosen[row] = torch.where(inside, logits.gather(1, places)[:, 0], chosen[row])
                    shares = (logits - top[:, None]).exp_()
                    total = shares.sum(-1)
                    log_sums[n, row] = top + total.log()
                    means[n, row] = logits.mul_(shares).sum(-1) / total
                    if len(columns) == len(rows) == 1 and any(ctx.needs_input_grad):
                        kept = shares.div_(total[:, None])
        log_sum = log_sums.logsumexp(0)
        entropy = log_sum - ((log_sums - log_sum).exp() * means).sum(0)
        best, offsets = tops.argmax(0, keepdim=True), torch.tensor([c.start for c in columns], device=x.device)
        right = (likeliest + offsets[:, None]).gather(0, best)[0] == targets
        ctx.save_for_backward(x, weight, targets, log_sum, kept)
        ctx.mark_non_differentiable(entropy, right)
        return chosen - log_sum, entropy, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, targets, log_sum, kept = ctx.saved_tensors
        grad, kind = grads[0], log_sum.dtype
        columns, rows = _tiles(len(x), len(weight))
        for_x, for_weight = ctx.needs_input_grad[:2]
        d_x = torch.zeros_like(x, dtype=kind) if for_x else None
        d_weight = torch.empty_like(weight) if for_weight else None
        with torch.autocast(x.device.type, enabled=False):
            for column in columns:
                block = weight[column].to(kind)
                d_block = torch.zeros_like(block) if for_weight else None
                for row in rows:
                    inputs, pull = x[row].to(kind), grad[row, None]
                    if kept is None:
                        pulled = (inputs @ block.T).sub_(log_sum[row, None]).exp_().mul_(-pull)
                    else:
                        pulled = kept * -pull
                    inside, places = _within(targets[row], column)
                    pulled.scatter_add_(1, places, torch.where(inside[:, None], pull, 0))
                    if d_x is not None:
                        d_x[row].addmm_(pulled, block)
                    if d_block is not None:
                        d_block.addmm_(pulled.T, inputs)
                if d_weight is not None and d_block is not None:
                    d_weight[column] = d_block
        return None if d_x is None else d_x.to(x.dtype), d_weight, None


def _tiles(rows: int, tokens: int) -> tuple[list[slice], list[slice]]:
    """The tokens and the rows of the tiles."""
    wide = min(tokens, _WIDE)
    tall = max(1, _TILE // wide)
    return (
        [slice(at, min(at + wide, tokens)) for at in range(0, tokens, wide)],
        [slice(at, min(at + tall, rows)) for at in range(0, rows, tall)],
    )


def _within(targets: Tensor, column: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in these tokens [r], and where there [r, 1]; 0 for the others."""
    inside = (targets >= column.start) & (targets < column.stop)
    return inside, torch.where(inside, targets - column.start, 0)[:, None]
