"""One token of each sequence through a whole decoder layer on a GPU, in 13 to 16 launches, without a word to the host.

In and out as in reference.py; `Slots` and `Pooled` pasts are written where they lie. Dense products are cuBLAS's, all
else Triton's, fused so that nothing passes through memory twice: SiLU, recurrence, norm and gate; rotation and the
write of keys and values; residual and norm; choice of experts; the experts' sum and the last residual.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minimax_m1.kernels.attention.triton import paged_attention
from minimax_m1.kernels.layer.parts import LightningMixer, Parts, Past, Pooled, Recent, SoftmaxMixer, Step
from minimax_m1.kernels.linear.triton import linear
from minimax_m1.kernels.moe.triton import moe
from minimax_m1.kernels.moe.triton_route import route
from minimax_m1.kernels.norm.triton import add_rms_norm, rms_norm
from minimax_m1.kernels.recurrent.triton import recurrent
from minimax_m1.kernels.rope.triton import rotate_and_store
from minimax_m1.kernels.slots import Slots


def layer(x: Tensor, parts: Parts, past: Past, threshold: Tensor | float) -> Step:
    """The whole layer for x [N, M] in float32, bfloat16 or float16; the kernels say which widths they take."""
    normed = rms_norm(x, parts.norm, parts.eps)
    states = None
    if isinstance(past, Tensor | Slots):
        assert isinstance(parts.mixer, LightningMixer)
        slots = past if isinstance(past, Slots) else _apart(past)
        states = None if slots is past else slots.pool
        mixed = _lightning(normed, parts.mixer, slots)
    else:
        assert isinstance(parts.mixer, SoftmaxMixer)
        mixed = _softmax(normed, parts.mixer, past if isinstance(past, Pooled) else _pooled(past))
    residual = normed if parts.postnorm else x
    x, normed = add_rms_norm(residual, mixed, *parts.mixer_scale, parts.experts_norm, parts.eps)
    router = parts.experts.router
    logits = torch.mm(normed.to(router.dtype), router.T)
    experts, weights = route(logits, parts.experts.top_k, threshold)
    residual = normed if parts.postnorm else x
    out = moe(
        *(normed, experts, weights, parts.experts.w13, parts.experts.w2),
        residual=residual,
        scale=parts.experts_scale,
    )
    return Step(out, states, experts, weights, logits)


def _apart(states: Tensor) -> Slots:
    """States [N, H, D, D] as a pool of their own: those given stay as they are."""
    return Slots(states.clone(), torch.arange(len(states), dtype=torch.int32, device=states.device))


def _pooled(past: Recent) -> Pooled:
    table = past.keys.table.blocks(past.keys.pool.device)
    return Pooled(past.keys.pool, past.values.pool, table, past.places, past.cos, past.sin)


def _lightning(x: Tensor, mixer: LightningMixer, slots: Slots) -> Tensor:
    qkv, gate = linear(x, mixer.qkv), linear(x, mixer.gate)
    return linear(recurrent(qkv, gate, mixer.norm, mixer.eps, mixer.slopes, slots), mixer.out)


def _softmax(x: Tensor, mixer: SoftmaxMixer, past: Pooled) -> Tensor:
    groups, width = past.keys.shape[2:]
    q, k, v = (linear(x, weight) for weight in (mixer.q, mixer.k, mixer.v))
    k, v = k.view(len(x), groups, width), v.view(len(x), groups, width)
    pools = past.keys, past.values
    q = rotate_and_store(q.view(len(x), -1, width), k, v, past.cos, past.sin, *pools, past.places)
    return linear(paged_attention(q, *pools, past.table).flatten(1), mixer.out)
