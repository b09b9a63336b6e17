"""Random weights for a new model: Xavier with DeepNorm's gain, as MiniMax-01 section 2.4 pretrains.

Values, outputs and experts start at (8 N)^(-1/4) of Xavier's deviation for N layers (DeepNet, arXiv 2203.00555), so
that the scaled residual keeps updates small; queries, keys, gates and the router start at Xavier's own; embedding
and head at `initializer_range`. Norms start at 1. Draws from torch's global generator: seed it for a repeatable start.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minimax_m1.model.attention import SoftmaxAttention
from minimax_m1.model.block import DecoderLayer
from minimax_m1.model.lightning import LightningAttention

if TYPE_CHECKING:
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM


@torch.no_grad()
def init_weights(model: MiniMaxM1ForCausalLM) -> None:
    """Fills every parameter in place."""
    config = model.config
    gain = (8 * config.num_hidden_layers) ** -0.25 if config.postnorm else 1.0
    model.model.embed_tokens.weight.normal_(std=config.initializer_range)
    if not config.tie_word_embeddings:
        model.lm_head.weight.normal_(std=config.initializer_range)
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        mixer = layer.self_attn
        if isinstance(mixer, LightningAttention):
            heads = mixer.qkv_proj.weight.view(mixer.heads, 3, mixer.width, -1)
            _xavier(heads[:, :2], mixer.qkv_proj.weight.shape, 1.0)
            _xavier(heads[:, 2], mixer.qkv_proj.weight.shape, gain)
            _xavier(mixer.output_gate.weight, mixer.output_gate.weight.shape, 1.0)
            _xavier(mixer.out_proj.weight, mixer.out_proj.weight.shape, gain)
        elif isinstance(mixer, SoftmaxAttention):
            for part, share in ((mixer.q_proj, 1.0), (mixer.k_proj, 1.0), (mixer.v_proj, gain), (mixer.o_proj, gain)):
                _xavier(part.weight, part.weight.shape, share)
        experts = layer.block_sparse_moe.experts
        _xavier(layer.block_sparse_moe.gate.weight, layer.block_sparse_moe.gate.weight.shape, 1.0)
        _xavier(experts.w13, (experts.w13.shape[1] // 2, experts.w13.shape[2]), gain)
        _xavier(experts.w2, experts.w2.shape[1:], gain)
        if config.shared_intermediate_size:
            for weight in layer.shared_mlp.parameters():
                _xavier(weight, weight.shape, gain)
            _xavier(layer.coefficient.weight, layer.coefficient.weight.shape, 1.0)


def _xavier(weight: Tensor, shape: torch.Size | tuple[int, ...], gain: float) -> None:
    """Normal with deviation gain · sqrt(2 / (in + out)), `shape` being that of one whole map [out, in]."""
    weight.normal_(std=gain * math.sqrt(2 / (shape[0] + shape[1])))
