"""One layer: mixer, then experts, each behind a norm and added to a scaled residual.

In: hidden states [T, M] and this layer's part of the state. Out: both afterwards, and the routing.
With `postnorm` the residual is the normed tensor (DeepNorm moved to the next layer's head). A decode step takes
`Ops.layer` where there is one: the whole layer in one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minimax_m1.config import LIGHTNING, MiniMaxM1Config
from minimax_m1.kernels.layer.parts import Experts, LightningMixer, Parts, Recent, SoftmaxMixer
from minimax_m1.kernels.norm.torch import residual_sum
from minimax_m1.kernels.ops import Layer, Ops
from minimax_m1.model.attention import Places, SoftmaxAttention
from minimax_m1.model.batch import Batch, Tail
from minimax_m1.model.layers import GatedMLP, Linear, RMSNorm
from minimax_m1.model.lightning import LightningAttention
from minimax_m1.model.moe import Routing, SparseMoE
from minimax_m1.model.quantization import Int8Linear
from minimax_m1.model.state import PagedKeyValues


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
        self._kept: _Kept | None = None  # what the last decode step made of these modules
        self.shared = config.shared_intermediate_size > 0
        if self.shared:
            self.shared_mlp = GatedMLP(config.hidden_size, config.shared_intermediate_size)
            self.coefficient = Linear(config.hidden_size, 1)

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        places: Places,
        memory: Any,
        threshold: Tensor | float,
        ops: Ops,
        tail: Tail | None = None,
    ) -> tuple[Tensor, Any, Routing]:
        """x [T, M] and the layer's part of the state -> x, that part afterwards, routing.

        With a `tail`, x and routing come back for its rows [R] only; the state takes in every token all the same.
        """
        if ops.layer is not None and tail is None and batch.segments.single_tokens and not torch.is_grad_enabled():
            done = self._step(x, batch, places, memory, threshold, ops.layer)
            if done is not None:
                return done
        normed = self.input_layernorm(x, ops)
        if isinstance(self.self_attn, LightningAttention):
            mixed, memory = self.self_attn(normed, batch, memory, ops, tail)
        else:
            mixed, memory = self.self_attn(normed, batch, places, memory, ops, tail)
        residual = normed if self.postnorm else x
        if tail is not None:
            residual = residual[tail.rows]
            threshold = threshold[tail.rows] if isinstance(threshold, Tensor) else threshold
        norm = self.post_attention_layernorm
        x, normed = ops.add_norm(residual, mixed, *self.mixer_scale, norm.weight, norm.eps)
        out, routing = self.block_sparse_moe(normed, threshold, ops)
        if self.shared:
            out = self._with_shared(normed, out, ops)
        return residual_sum(normed if self.postnorm else x, out, *self.mlp_scale), memory, routing

    def _step(
        self,
        x: Tensor,
        batch: Batch,
        places: Places,
        memory: Any,
        threshold: Tensor | float,
        layer: Layer,
    ) -> tuple[Tensor, Any, Routing] | None:
        """One token of each sequence in one call; None where the ops must do it one by one."""
        if self.shared or (self.training and self.block_sparse_moe.jitter > 0):
            return None
        past, after = memory, None
        if isinstance(memory, PagedKeyValues) and places.factor is None:
            after = PagedKeyValues(memory.data, memory.table.after(batch.segments))
            rows = memory.table.places(batch.segments, x.device)
            past = Recent(after.keys, after.values, rows, places.cos, places.sin)
        elif not isinstance(memory, Tensor):
            return None
        parts = self.parts()
        step = None if parts is None else layer(x, parts, past, threshold)
        if step is None:
            return None
        routing = Routing(experts=step.experts, weights=step.weights, logits=step.logits)
        return step.x, step.states if after is None else after, routing

    def parts(self) -> Parts | None:
        """The layer's tensors; None where a map does more than multiply by its weight, as with an adapter beside it."""
        if self._kept is None or not self._kept.holds():
            self._kept = _Kept(self, self._gather())
        return self._kept.parts

    def _gather(self) -> Parts | None:
        mixer, moe = self.self_attn, self.block_sparse_moe
        if any(isinstance(each, Linear) and type(each) is not Linear for each in mixer.children()):
            return None
        if isinstance(mixer, LightningAttention):
            maps: Any = LightningMixer(
                *(_weight(mixer.qkv_proj), _weight(mixer.output_gate), mixer.norm.weight, mixer.norm.eps),
                *(_weight(mixer.out_proj), mixer.slopes.values),
            )
        else:
            maps = SoftmaxMixer(*map(_weight, (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.o_proj)))
        norms = self.input_layernorm, self.post_attention_layernorm
        return Parts(
            *(norms[0].weight, norms[1].weight, norms[0].eps, maps),
            Experts(moe.gate.weight, *moe.experts.weights(), moe.top_k),
            *(self.postnorm, self.mixer_scale, self.mlp_scale),
        )

    def _with_shared(self, normed: Tensor, out: Tensor, ops: Ops) -> Tensor:
        """moe (1 - c) + shared c, the mixing coefficient in float32."""
        accurate = torch.promote_types(normed.dtype, torch.float32)
        score = linear(normed.to(accurate), self.coefficient.weight.to(accurate))  # [T, 1]
        share = (score.sigmoid() if self.shared_mode == "sigmoid" else score.softmax(-1)).to(out.dtype)
        shared: Tensor = self.shared_mlp(normed, ops)
        return out * (1 - share) + shared * share


class _Kept:
    """A layer's parts, and where its modules hold what they were made of.

    To walk through the modules at each step would cost a small model a tenth of it; to see that every place still
    holds the same object does not, and who moves or replaces one need not tell.
    """

    def __init__(self, layer: nn.Module, parts: Parts | None) -> None:
        self.parts = parts
        self._places = [
            (places, name, held)
            for module in layer.modules()
            for places in (module._parameters, module._buffers, module._modules)
            for name, held in places.items()
        ]

    def holds(self) -> bool:
        """Whether every place holds what it held."""
        return all(places.get(name) is held for places, name, held in self._places)


def _weight(linear: nn.Module) -> Any:
    """A linear map's weight, a tensor or an `Int8`."""
    return linear.held[0] if isinstance(linear, Int8Linear) else linear.weight
