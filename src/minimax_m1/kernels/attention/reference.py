"""Causal softmax attention with grouped heads said plainly, one sequence at a time with the whole mask.

In: q [T, H, D] packed; keys and values, one [L_n, G, D] a sequence, L_n = tokens already cached + tokens of this
batch. Out: [T, H, D]. Query i of a sequence with T_n new tokens sees keys 0 .. L_n - T_n + i; query head h reads
key head h // (H / G); scale 1/sqrt(D); softmax in float32 or better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minimax_m1.kernels.segments import Segments


def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
    """Softmax attention; differentiable in every tensor."""
    assert len(keys) == len(values) == len(segments)
    accurate = torch.promote_types(q.dtype, torch.float32)
    out = []
    for query, key, value in zip(q.split(segments.lengths), keys, values, strict=True):
        group = q.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, 1).to(accurate) for x in (key, value))  # [L, H, D]
        scores = torch.einsum("ihd,jhd->hij", query.to(accurate), key) / q.shape[-1] ** 0.5
        past = len(key) - len(query)
        hidden = torch.ones(len(query), len(key), dtype=torch.bool, device=q.device).triu(past + 1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out.append(torch.einsum("hij,jhd->ihd", weights, value).to(q.dtype))
    return torch.cat(out)
