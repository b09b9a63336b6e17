"""The decode step of lightning attention on a CPU: each head's state is read, decayed, written and used in one pass.

In and out as in reference.py. One new token a sequence, float32, without gradients, runs compiled, at twice torch's
speed, beside sequences of many tokens too; anything else is what torch.py does well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimax_m1.kernels.lightning.torch import lightning as many_tokens
from minimax_m1.kernels.lightning.torch import separately
from minimax_m1.kernels.ops import Lightning
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.threads import Kernel, floats, numbers, share


def compile_lightning() -> Lightning:
    """The op, compiled."""
    kernel = Kernel(_heads, 12)

    def lightning(
        q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        compiles = q.dtype is k.dtype is v.dtype is slopes.dtype is states.dtype is torch.float32 and q.is_cpu
        if torch.is_grad_enabled() or not compiles or segments.total == 0:
            return many_tokens(q, k, v, slopes, segments, states)
        if segments.parts(q.device):
            return separately(lightning, q, k, v, slopes, segments, states)
        if not segments.single_tokens:
            return many_tokens(q, k, v, slopes, segments, states)
        sequences, heads, width = q.shape
        if not q.stride() == k.stride() == v.stride() or q.stride(2) != 1:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        assert q.shape == k.shape == v.shape and states.shape == (sequences, heads, width, width)
        slopes, states = slopes.contiguous(), states.contiguous()
        out, ends = q.new_empty(sequences, heads, width), torch.empty_like(states)
        kernel(
            2 * states.numel(),
            *(t.data_ptr() for t in (q, k, v, slopes, states, out, ends)),
            *(sequences, heads, width, q.stride(0), q.stride(1)),
        )
        return out, ends

    return lightning


def _heads(data: Any) -> None:
    at_q, at_k, at_v, at_slopes, at_states, at_out, at_ends, sequences, heads, width, by_row, by_head = numbers(
        data, 12
    )
    size = width * width
    slopes, out = floats(at_slopes, heads), floats(at_out, sequences * heads * width)
    states, ends = floats(at_states, sequences * heads * size), floats(at_ends, sequences * heads * size)
    reach = (sequences - 1) * by_row + (heads - 1) * by_head + width
    qs, ks, vs = floats(at_q, reach), floats(at_k, reach), floats(at_v, reach)
    first, stop = share(sequences * heads)
    for unit in range(first, stop):
        row, head = unit // heads, unit % heads
        at = row * by_row + head * by_head
        q, k, v = qs[at : at + width], ks[at : at + width], vs[at : at + width]
        mixed = out[unit * width : (unit + 1) * width]
        decay = np.exp(-slopes[head])
        for j in range(width):
            mixed[j] = 0
        for i in range(width):
            state = states[unit * size + i * width : unit * size + (i + 1) * width]
            end = ends[unit * size + i * width : unit * size + (i + 1) * width]
            for j in range(width):
                value = decay * state[j] + k[i] * v[j]
                end[j] = value
                mixed[j] += q[i] * value
