"""The small parts: embedding, bias-free linear map, RMSNorm, the shared expert's gated MLP, the float32 head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.precision import uncast


class Linear(nn.Module):
    """x [..., in] -> [..., out], no bias; made empty, since weights are loaded or initialised as a whole."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.linear(x, self.weight)


class Embedding(nn.Module):
    """ids [T] -> [T, width]; made empty, like Linear."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.norm(x, self.weight, self.eps)


class GatedMLP(nn.Module):
    """down( silu(gate x) * up x ), the shared expert."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner)
        self.up_proj = Linear(width, inner)
        self.down_proj = Linear(inner, width)

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        out: Tensor = self.down_proj(silu(self.gate_proj(x, ops)) * self.up_proj(x, ops), ops)
        return out


def head(x: Tensor, weight: Tensor, ops: Ops) -> Tensor:
    """Logits [T, V] in float32 or better whatever the model's dtype (MiniMax-M1 report, section 3.2)."""
    with uncast(x.device):
        return ops.linear(x.to(torch.promote_types(x.dtype, torch.float32)), weight)
