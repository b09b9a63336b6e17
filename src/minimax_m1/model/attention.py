"""The softmax mixer: grouped-query attention with rotary positions on the first dimensions of each head.

In: normed hidden states [T, M] of a packed batch, its `Places`, the keys and values before it. Out: [T, M] and the
keys and values with this batch's tokens appended (keys are kept rotated, in the model's dtype).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.rope.reference import rope_tables
from minimax_m1.model.batch import Batch, Tail, follow
from minimax_m1.model.layers import Linear
from minimax_m1.model.state import KeyValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a batch's tokens stand: rotary cos and sin [T, 1, R/2]; what queries are multiplied by [T, 1, 1], if so.

    The factor is max(1, ln n / ln `softmax_log_n`), n the tokens of the sequence so far with this one: over a longer
    text than the training's the weight would thin out among more rivals (SSMax, arXiv 2501.19399, applied afterwards).
    It counts tokens and not positions, which training may skip.
    """

    cos: Tensor
    sin: Tensor
    factor: Tensor | None

    @classmethod
    def of(cls, batch: Batch, before: Sequence[int], config: MiniMaxM1Config, dtype: torch.dtype) -> Self:
        """`before`: tokens that each sequence has seen, [N]; tables in `dtype`, float32 or better."""
        cos, sin = rope_tables(batch.positions, config.rotary_dim, config.rope_theta, dtype)
        factor = None
        if config.softmax_log_n:
            seen = follow(before, batch.segments, batch.ids.device) + 1
            factor = (seen.to(dtype).log() / math.log(config.softmax_log_n)).clamp(min=1)[:, None, None]
        return cls(cos=cos, sin=sin, factor=factor)

    def at(self, rows: Tensor) -> Self:
        """Those of some rows [R]."""
        factor = None if self.factor is None else self.factor[rows]
        return type(self)(cos=self.cos[rows], sin=self.sin[rows], factor=factor)


class SoftmaxAttention(nn.Module):
    """Parameters: q_proj [HD, M], k_proj and v_proj [GD, M], o_proj [M, HD]."""

    def __init__(self, config: MiniMaxM1Config) -> None:
        super().__init__()
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = Linear(config.hidden_size, self.heads * self.width)
        self.k_proj = Linear(config.hidden_size, self.groups * self.width)
        self.v_proj = Linear(config.hidden_size, self.groups * self.width)
        self.o_proj = Linear(self.heads * self.width, config.hidden_size)

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        places: Places,
        past: KeyValues,
        ops: Ops,
        tail: Tail | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """x [T, M] -> [T, M], or [R, M] for the tail alone; keys and values."""
        asking, where = (x, places) if tail is None else (x[tail.rows], places.at(tail.rows))
        q = ops.rope(self.q_proj(asking, ops).view(len(asking), self.heads, self.width), where.cos, where.sin)
        if where.factor is not None:
            q = (q * where.factor).to(q.dtype)
        k = ops.rope(self.k_proj(x, ops).view(len(x), self.groups, self.width), places.cos, places.sin)
        v = self.v_proj(x, ops).view(len(x), self.groups, self.width)
        now = past.append(k, v, batch.segments)
        segments = batch.segments if tail is None else tail.segments
        mixed = ops.attention(q, now.keys, now.values, segments)
        return self.o_proj(mixed.flatten(1), ops), now
