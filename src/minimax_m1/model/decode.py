"""A decode step that asks the host nothing: one token of each of N sequences, every table a tensor on the device.

In: ids, positions, slots and pages as tensors, and the pools that hold the sequences' pasts, which are written in
place. Out: logits and routing. Nothing here depends on what the tensors hold, so a CUDA graph can record it
(engine/graph.py). `MiniMaxM1ForCausalLM.run` gives the same for whoever holds a `State`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from minimax_m1.config import LIGHTNING
from minimax_m1.kernels.layer.parts import Past, Pooled
from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.rope.reference import rope_tables
from minimax_m1.kernels.slots import Slots
from minimax_m1.model.block import DecoderLayer
from minimax_m1.model.layers import head
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBatch:
    """One token of each of N sequences: ids [N] int64; positions [N] int64, the tokens each has seen; slots [N] int32
    in the lightning pools; pages [N, most] int32 in the softmax pools, with room for the new token; thresholds [N].

    A row with position and slot -1 is nobody's: it fills a batch up to a size that was recorded, and writes nothing.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    pages: Tensor
    thresholds: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """logits [N, V] in float32 or better; experts and weights [L, N, K] as in `Routing`."""

    logits: Tensor
    experts: Tensor
    weights: Tensor


def decodable(model: MiniMaxM1ForCausalLM) -> bool:
    """Whether `decode` takes this model: its kernels do whole layers, and its layers are only what they know."""
    known = model.ops.layer is not None and not model.config.softmax_log_n
    return known and all(not layer.shared and layer.parts() is not None for layer in _layers(model))


def decode(
    model: MiniMaxM1ForCausalLM, batch: DecodeBatch, lightning: Sequence[Tensor], softmax: Sequence[Tensor]
) -> Decoded:
    """One step; lightning pools [S, H, D, D], one a lightning layer, and softmax pools [2, P, B, G, D] take it in."""
    config, step = model.config, model.ops.layer
    assert step is not None and not torch.is_grad_enabled()
    real = batch.positions >= 0
    at = batch.positions.clamp(min=0)
    cos, sin = rope_tables(at, config.rotary_dim, config.rope_theta, torch.promote_types(model.dtype, torch.float32))
    table = BlockTable(batch.pages, (batch.positions + 1).to(torch.int32))
    states, pools = iter(lightning), iter(softmax)
    arrived = torch.zeros_like(batch.slots)
    places = None
    x = model.model.embed_tokens(batch.ids)
    experts, weights = [], []
    for kind, layer in zip(config.attn_type_list, _layers(model), strict=True):
        if kind == LIGHTNING:
            past: Past = Slots(next(states), batch.slots, arrived)
        else:
            keys, values = next(pools)
            if places is None:
                size = keys.shape[1]
                places = batch.pages.gather(1, (at // size)[:, None])[:, 0] * size + at % size
                places = torch.where(real, places, -1)
            past = Pooled(keys, values, table, places, cos, sin)
        parts = layer.parts()
        done = None if parts is None else step(x, parts, past, batch.thresholds)
        assert done is not None, "ask `decodable` first"
        x = done.x
        experts.append(done.experts)
        weights.append(done.weights)
    hidden = model.model.norm(x, model.ops)
    return Decoded(
        logits=head(hidden, model.lm_head.weight, model.ops), experts=torch.stack(experts), weights=torch.stack(weights)
    )


def _layers(model: MiniMaxM1ForCausalLM) -> Iterable[DecoderLayer]:
    return cast(Iterable[DecoderLayer], model.model.layers)
