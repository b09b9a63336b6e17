"""Causal softmax attention through torch's fused kernels, grouped heads without copies.

In and out as in reference.py. Without cached keys the fused causal kernel runs as it is; one new token sees every
key and needs no mask. Several new tokens on cached keys take two runs of it on a CPU, over the cached keys and over
the new ones, whose softmaxes are put together; elsewhere blocks of queries, each with a mask of bounded size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.segments import Segments

_MASK_SIZE = 2**23  # most entries of one mask, 40 MB with the kernel's float copy


@eager
def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
    """Softmax attention; gradients equal the reference's."""
    assert len(keys) == len(values) == len(segments)
    queries = q.split(segments.lengths)
    # Keys in pages are gathered when they are indexed: once a call, and not where nobody asks.
    parts = [_one(query, keys[n], values[n]) for n, query in enumerate(queries) if len(query)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else q


def _one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sequence: query [T_n, H, D], key and value [L, G, D] -> [T_n, H, D]."""
    new, heads, width = query.shape
    groups = key.shape[1]
    key, value = key.to(query.dtype), value.to(query.dtype)  # under autocast, kept ones may be wider
    q = query.view(new, groups, heads // groups, width).permute(1, 2, 0, 3)  # [G, H/G, T_n, D]
    k, v = _of_each_head(key, q), _of_each_head(value, q)
    past = len(key) - new
    if past == 0 or new == 1:
        out = scaled_dot_product_attention(q, k, v, is_causal=new > 1)
    elif q.is_cpu:
        out = _Together.apply(q, key, value, past)
    else:
        out = _masked(q, k, v, past)
    return out.permute(2, 0, 1, 3).reshape(new, heads, width)


class _Together(torch.autograd.Function):
    """Queries [G, H/G, T_n, D] on `past` keys that all of them see, and on as many new keys as there are queries.

    1.3 to 1.4 times as fast as masks (4,096 to 32,768 keys, 2,048 queries). The operators are those that torch's own
    function calls. The forward one keeps back the logarithms of the sums of weights; given those over all keys, the
    backward one finds the gradients of its own keys' part.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, key: Tensor, value: Tensor, past: int) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        k, v = _of_each_head(key, q), _of_each_head(value, q)
        old, log_old = fused(q, k[..., :past, :], v[..., :past, :])
        new, log_new = fused(q, k[..., past:, :], v[..., past:, :], is_causal=True)
        share = torch.sigmoid(log_old - log_new)[..., None]  # of the old keys in all weights
        out = torch.lerp(new.to(share.dtype), old.to(share.dtype), share).to(q.dtype)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, key, value, out, torch.logaddexp(log_old, log_new))
            ctx.past = past
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, key, value, out, logs = ctx.saved_tensors
        past, grad = ctx.past, grads[0].contiguous()
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        k, v = _of_each_head(key[past:], q), _of_each_head(value[past:], q)
        d_q, d_k, d_v = fused(grad, q, k, v, out, logs, 0.0, True)
        # All queries of a group see all old keys, so that the heads of a group are one row of queries here.
        grad, row, out, logs = (x.flatten(1, 2)[None] for x in (grad, q, out, logs))
        k, v = (x[:past].transpose(0, 1)[None] for x in (key, value))
        d_row, d_old_k, d_old_v = fused(grad, row, k, v, out, logs, 0.0, False)
        d_q += d_row.view(d_q.shape)
        d_key, d_value = (
            torch.cat((old[0].transpose(0, 1), new.sum(1).transpose(0, 1)))
            for old, new in ((d_old_k, d_k), (d_old_v, d_v))
        )
        return d_q, d_key, d_value, None


def _of_each_head(x: Tensor, q: Tensor) -> Tensor:
    """[L, G, D] as [G, H/G, L, D] to the queries' heads: stride 0, no copy."""
    return x.transpose(0, 1)[:, None].expand(-1, q.shape[1], -1, -1)


def _masked(q: Tensor, k: Tensor, v: Tensor, past: int) -> Tensor:
    """What `_Together` computes, [G, H/G, T_n, D], on any device."""
    length = k.shape[2]
    size = max(1, min(256, _MASK_SIZE // length))
    parts = []
    for first, block in zip(range(past, length, size), q.split(size, 2), strict=True):
        seen = first + block.shape[2]
        at = torch.arange(seen, device=q.device)
        mask = at <= at[first:, None]
        parts.append(scaled_dot_product_attention(block, k[..., :seen, :], v[..., :seen, :], attn_mask=mask))
    return torch.cat(parts, 2)
