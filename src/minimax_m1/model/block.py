"""One layer: mixer, then experts, each behind a norm and added to a scaled residual.

In: hidden states [T, M] and this layer's part of the state. Out: both afterwards, and the routing.
With `postnorm` the residual is the normed tensor (DeepNorm moved to the next layer's head).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minimax_m1.config import LIGHTNING, MiniMaxM1Config
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.attention import SoftmaxAttention
from minimax_m1.model.batch import Batch, Tail
from minimax_m1.model.layers import GatedMLP, Linear, RMSNorm
from minimax_m1.model.lightning import LightningAttention
from minimax_m1.model.moe import Routing, SparseMoE


class DecoderLayer(nn.Module):
    """n = norm(x); x = alpha r + beta mixer(n), then the same with the experts; r is n itself if postnorm, else x."""

    def __init__(self, config: MiniMaxM1Config, layer: int) -> None:
        super().__init__()
        kind = config.attn_type_list[layer]
        self.postnorm, self.shared_mode = config.postnorm, config.shared_moe_mode
        mixer = "linear" if kind == LIGHTNING else "full"
        self.mixer_scale = (
            getattr(config, f"layernorm_{mixer}_attention_alpha"),
            getattr(config, f"layernorm_{mixer}_attention_beta"),
        )
        self.mlp_scale = (config.layernorm_mlp_alpha, config.layernorm_mlp_beta)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LightningAttention(config, layer) if kind == LIGHTNING else SoftmaxAttention(config)
        self.block_sparse_moe = SparseMoE(config)
        if config.shared_intermediate_size:
            self.shared_mlp = GatedMLP(config.hidden_size, config.shared_intermediate_size)
            self.coefficient = Linear(config.hidden_size, 1)

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        tables: tuple[Tensor, Tensor],
        memory: Any,
        threshold: Tensor | float,
        ops: Ops,
        tail: Tail | None = None,
    ) -> tuple[Tensor, Any, Routing]:
        """x [T, M] and the layer's part of the state -> x, that part afterwards, routing.

        With a `tail`, x and routing come back for its rows [R] only; the state takes in every token all the same.
        """
        normed = self.input_layernorm(x, ops)
        if isinstance(self.self_attn, LightningAttention):
            mixed, memory = self.self_attn(normed, batch, memory, ops, tail)
        else:
            mixed, memory = self.self_attn(normed, batch, tables, memory, ops, tail)
        residual = normed if self.postnorm else x
        if tail is not None:
            residual = residual[tail.rows]
            threshold = threshold[tail.rows] if isinstance(threshold, Tensor) else threshold
        x = _residual(residual, mixed, *self.mixer_scale)
        normed = self.post_attention_layernorm(x, ops)
        out, routing = self.block_sparse_moe(normed, threshold, ops)
        if hasattr(self, "shared_mlp"):
            out = self._with_shared(normed, out, ops)
        return _residual(normed if self.postnorm else x, out, *self.mlp_scale), memory, routing

    def _with_shared(self, normed: Tensor, out: Tensor, ops: Ops) -> Tensor:
        """moe (1 - c) + shared c, the mixing coefficient in float32."""
        accurate = torch.promote_types(normed.dtype, torch.float32)
        score = linear(normed.to(accurate), self.coefficient.weight.to(accurate))  # [T, 1]
        share = (score.sigmoid() if self.shared_mode == "sigmoid" else score.softmax(-1)).to(out.dtype)
        shared: Tensor = self.shared_mlp(normed, ops)
        return out * (1 - share) + shared * share


def _residual(residual: Tensor, branch: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha residual + beta branch."""
    return torch.add(branch if beta == 1 else beta * branch, residual, alpha=alpha)
