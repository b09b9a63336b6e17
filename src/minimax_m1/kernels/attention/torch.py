"""Causal softmax attention through torch's fused kernels, grouped heads without copies.

In and out as in reference.py. Without cached keys the fused causal kernel runs as it is; one new token sees every
key and needs no mask; several new tokens on cached keys take blocks of queries, each with its own small mask, so
memory grows with the keys and not with their square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minimax_m1.kernels.segments import Segments

_QUERY_BLOCK = 256


def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
    """Softmax attention; gradients equal the reference's."""
    assert len(keys) == len(values) == len(segments)
    queries = q.split(segments.lengths)
    parts = [_one(*part) for part in zip(queries, keys, values, strict=True) if len(part[0])]
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sequence: query [T_n, H, D], key and value [L, G, D] -> [T_n, H, D]."""
    new, heads, width = query.shape
    groups = key.shape[1]
    q = query.view(new, groups, heads // groups, width).permute(1, 2, 0, 3)  # [G, H/G, T_n, D]
    k, v = (x.transpose(0, 1)[:, None].expand(-1, heads // groups, -1, -1) for x in (key, value))  # stride 0, no copy
    past = len(key) - new
    if past == 0 or new == 1:
        out = scaled_dot_product_attention(q, k, v, is_causal=new > 1)
    else:
        at = torch.arange(len(key), device=query.device)
        out = torch.cat(
            [
                scaled_dot_product_attention(
                    part,
                    k[..., : past + first + part.shape[2], :],
                    v[..., : past + first + part.shape[2], :],
                    attn_mask=at[: past + first + part.shape[2]] <= at[past + first :][: part.shape[2], None],
                )
                for first, part in zip(range(0, new, _QUERY_BLOCK), q.split(_QUERY_BLOCK, 2), strict=True)
            ],
            2,
        )
    return out.permute(2, 0, 1, 3).reshape(new, heads, width)
