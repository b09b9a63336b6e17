"""The lightning mixer: linear attention with a fixed decay a head, a norm over all heads and an output gate.

In: normed hidden states [T, M] of a packed batch and the states [N, H, D, D] before it. Out: [T, M] and the states
after it. MiniMax-01 (arXiv 2501.08313) section 2.2.2; the published `MiniMaxM1LightningAttention`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch, Tail
from minimax_m1.model.layers import Linear, RMSNorm
from minimax_m1.model.precision import KeepsFloat32


def slopes(heads: int, layer: int, layers: int) -> Tensor:
    """Decay slopes [heads] in float32 of one layer; a token fades by exp(-slope) at each step.

    2^(-8(i+1)/heads) for a power of two; otherwise those of the next lower power, filled up with every second slope
    of the next higher one. Scaled by 1 - layer/(layers-1) + 1e-5, the layer index counting softmax layers too.
    """

    def geometric(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    power = 2 ** math.floor(math.log2(heads))
    values = geometric(power) + geometric(2 * power)[::2][: heads - power]
    scale = 1 - layer / (layers - 1) + 1e-5 if layers > 1 else 1 + 1e-5
    return torch.tensor(values, dtype=torch.float32) * scale


class Slopes(KeepsFloat32):
    """The slopes of one layer, on the model's device; not part of a checkpoint."""

    values: Tensor

    def __init__(self, heads: int, layer: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("values", slopes(heads, layer, layers), persistent=False)


class LightningAttention(nn.Module):
    """Parameters: qkv_proj [3HD, M] (head-major: q, k, v of head 0, then of head 1, ...), output_gate [HD, M],
    norm [HD], out_proj [M, HD]."""

    def __init__(self, config: MiniMaxM1Config, layer: int) -> None:
        super().__init__()
        self.heads, self.width = config.num_attention_heads, config.head_dim
        inner = self.heads * self.width
        self.qkv_proj = Linear(config.hidden_size, 3 * inner)
        self.output_gate = Linear(config.hidden_size, inner)
        self.out_proj = Linear(inner, config.hidden_size)
        self.norm = RMSNorm(inner, config.lightning_norm_eps)
        self.slopes = Slopes(self.heads, layer, config.num_hidden_layers)

    def forward(
        self, x: Tensor, batch: Batch, states: Tensor, ops: Ops, tail: Tail | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [T, M], states [N, H, D, D] -> [T, M], or [R, M] for the tail alone; states."""
        qkv = silu(self.qkv_proj(x, ops), inplace=not torch.is_grad_enabled()).view(len(x), self.heads, 3 * self.width)
        q, k, v = qkv.split(self.width, -1)
        mixed, states = ops.lightning(q, k, v, self.slopes.values, batch.segments, states)
        if tail is not None:
            mixed, x = mixed[tail.rows], x[tail.rows]
        mixed = ops.gated_norm(mixed.flatten(1), self.output_gate(x, ops), self.norm.weight, self.norm.eps)
        return self.out_proj(mixed, ops), states
