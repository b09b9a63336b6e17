"""Mixture of experts for one token or a few on a CPU: each kept expert's weights are read once, by all threads.

In and out as in reference.py. Up to 24 float32 tokens without gradients run compiled: both products in one region,
with a barrier between them. Anything else is what torch.py does well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimax_m1.kernels.moe.torch import moe as many_tokens
from minimax_m1.kernels.ops import MoE
from minimax_m1.kernels.threads import Kernel, barrier, dot, floats, integers, numbers, share

_MOST_TOKENS = 24  # measured at hidden 128 to 512: faster than torch up to 24 everywhere, up to 32 for narrow experts


def compile_moe() -> MoE:
    """The op, compiled."""
    kernel = Kernel(_experts, 12)

    def moe(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        tokens, slots = experts.shape
        if (
            torch.is_grad_enabled()
            or tokens > _MOST_TOKENS
            or not (x.dtype is weights.dtype is w13.dtype is w2.dtype is torch.float32)
            or not (x.is_cpu and w13.is_contiguous() and w2.is_contiguous())
        ):
            return many_tokens(x, experts, weights, w13, w2)
        x, experts, weights = x.contiguous(), experts.contiguous(), weights.contiguous()
        count, width, inner = w2.shape
        assert x.shape == (tokens, width) and w13.shape == (count, 2 * inner, width) and weights.shape == experts.shape
        out = torch.empty_like(x)
        act = x.new_empty(tokens * slots * inner)
        kernel(
            3 * tokens * slots * inner * width,
            *(t.data_ptr() for t in (x, experts, weights, w13, w2, act, out)),
            *(tokens, slots, count, width, inner),
        )
        return out

    return moe


def _experts(data: Any) -> None:
    at_x, at_experts, at_weights, at_w13, at_w2, at_act, at_out, tokens, slots, count, width, inner = numbers(data, 12)
    x, out = floats(at_x, tokens * width), floats(at_out, tokens * width)
    experts, weights = integers(at_experts, tokens * slots), floats(at_weights, tokens * slots)
    w13, w2 = floats(at_w13, count * 2 * inner * width), floats(at_w2, count * width * inner)
    act = floats(at_act, tokens * slots * inner)
    first, stop = share(inner)
    for slot in range(tokens * slots):
        expert, token = experts[slot], slot // slots
        if expert >= 0:  # not dropped by the threshold
            row = x[token * width : (token + 1) * width]
            for f in range(first, stop):
                at = (expert * 2 * inner + f) * width
                gate = dot(w13[at : at + width], row)
                up = dot(w13[at + inner * width : at + (inner + 1) * width], row)
                act[slot * inner + f] = gate / (np.float32(1) + np.exp(-gate)) * up
    barrier()
    first, stop = share(width)
    for token in range(tokens):
        for m in range(first, stop):
            out[token * width + m] = 0
        for slot in range(token * slots, (token + 1) * slots):
            expert = experts[slot]
            if expert >= 0:
                row = act[slot * inner : (slot + 1) * inner]
                for m in range(first, stop):
                    at = (expert * width + m) * inner
                    out[token * width + m] += weights[slot] * dot(w2[at : at + inner], row)
