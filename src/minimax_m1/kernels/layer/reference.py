"""One token of each sequence through a decoder layer, said plainly with the references of its ops.

In: x [N, M], the layer's parts, and what came before: states [N, H, D, D], which stay as they are, or in `Slots`, which
take the new ones in, as the pages of `Recent` and `Pooled` do; thresholds as in moe/route.py. Out: a `Step`. Everything
is worked out in x's dtype, the router in its own; norms, states, rotations and scores in float32 or better.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.attention.reference import attention
from minimax_m1.kernels.layer.parts import LightningMixer, Parts, Past, Pooled, Recent, SoftmaxMixer, Step
from minimax_m1.kernels.lightning.reference import lightning
from minimax_m1.kernels.linear.reference import linear
from minimax_m1.kernels.moe.reference import moe
from minimax_m1.kernels.moe.route import route
from minimax_m1.kernels.norm.reference import rms_norm
from minimax_m1.kernels.pages import Paged, PageTable
from minimax_m1.kernels.rope.reference import rope
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots


def layer(x: Tensor, parts: Parts, past: Past, threshold: Tensor | float) -> Step:
    """The whole layer; every sequence brings one token."""
    normed = rms_norm(x, parts.norm, parts.eps)
    states = None
    if isinstance(past, Tensor):
        assert isinstance(parts.mixer, LightningMixer)
        mixed, states = _lightning(normed, parts.mixer, past)
    elif isinstance(past, Slots):
        assert isinstance(parts.mixer, LightningMixer)
        real = past.index >= 0
        mixed = torch.zeros_like(x)
        mixed[real], past.pool[past.index[real]] = _lightning(normed[real], parts.mixer, past.pool[past.index[real]])
    elif isinstance(past, Recent):
        assert isinstance(parts.mixer, SoftmaxMixer)
        mixed = _softmax(normed, parts.mixer, past)
    else:
        assert isinstance(parts.mixer, SoftmaxMixer)
        real = past.places >= 0
        mixed = torch.zeros_like(x)
        mixed[real] = _softmax(normed[real], parts.mixer, _recent(past, real))
    alpha, beta = parts.mixer_scale
    x = alpha * (normed if parts.postnorm else x) + beta * mixed
    normed = rms_norm(x, parts.experts_norm, parts.eps)
    logits = normed.to(parts.experts.router.dtype) @ parts.experts.router.T
    experts, weights = route(logits, parts.experts.top_k, threshold)
    mixed = moe(normed, experts, weights, parts.experts.w13, parts.experts.w2)
    alpha, beta = parts.experts_scale
    return Step(alpha * (normed if parts.postnorm else x) + beta * mixed, states, experts, weights, logits)


def _lightning(x: Tensor, mixer: LightningMixer, states: Tensor) -> tuple[Tensor, Tensor]:
    heads, width = states.shape[1:3]
    q, k, v = silu(linear(x, mixer.qkv)).view(len(x), heads, 3 * width).split(width, -1)
    mixed, states = lightning(q, k, v, mixer.slopes, Segments.of([1] * len(x)), states)
    gate = torch.sigmoid(linear(x, mixer.gate))
    return linear(rms_norm(mixed.flatten(1), mixer.norm, mixer.eps) * gate, mixer.out), states


def _recent(past: Pooled, real: Tensor) -> Recent:
    """The rows that are somebody's, with their table on the host."""
    pages = tuple(row.numpy().astype(np.int64) for row in past.table.pages[real].cpu())
    table = PageTable(pages, tuple(past.table.lengths[real].tolist()), past.keys.shape[1])
    places = past.places[real]
    return Recent(Paged(past.keys, table), Paged(past.values, table), places, past.cos[real], past.sin[real])


def _softmax(x: Tensor, mixer: SoftmaxMixer, past: Recent) -> Tensor:
    groups, width = past.keys.pool.shape[2:]
    q = rope(linear(x, mixer.q).view(len(x), -1, width), past.cos, past.sin)
    k = rope(linear(x, mixer.k).view(len(x), groups, width), past.cos, past.sin)
    v = linear(x, mixer.v).view(len(x), groups, width)
    for held, new in ((past.keys, k), (past.values, v)):
        held.pool.view(-1, groups, width).index_copy_(0, past.places, new.to(held.pool.dtype))
    return linear(attention(q, past.keys, past.values, Segments.of([1] * len(x))).flatten(1), mixer.out)
