"""The softmax mixer: grouped-query attention with rotary positions on the first dimensions of each head.

In: normed hidden states [T, M] of a packed batch, rotary tables, the keys and values before it. Out: [T, M] and the
keys and values with this batch's tokens appended (keys are kept rotated, in the model's dtype).
"""

from __future__ import annotations

from torch import Tensor, nn

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch, Tail
from minimax_m1.model.layers import Linear
from minimax_m1.model.state import KeyValues


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
        tables: tuple[Tensor, Tensor],
        past: KeyValues,
        ops: Ops,
        tail: Tail | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """x [T, M], tables of cos and sin [T, 1, R/2] -> [T, M], or [R, M] for the tail alone; keys and values."""
        asking, turns = (x, tables) if tail is None else (x[tail.rows], (tables[0][tail.rows], tables[1][tail.rows]))
        q = ops.rope(self.q_proj(asking, ops).view(len(asking), self.heads, self.width), *turns)
        k = ops.rope(self.k_proj(x, ops).view(len(x), self.groups, self.width), *tables)
        v = self.v_proj(x, ops).view(len(x), self.groups, self.width)
        now = past.append(k, v, batch.segments)
        segments = batch.segments if tail is None else tail.segments
        mixed = ops.attention(q, now.keys, now.values, segments)
        return self.o_proj(mixed.flatten(1), ops), now
