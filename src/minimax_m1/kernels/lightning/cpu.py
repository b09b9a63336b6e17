"""The decode step of lightning attention on a CPU: each head's state is read, decayed, written and used in one pass.

In and out as in reference.py. One new token a sequence, float32 or bfloat16 with float32 states, without gradients,
runs compiled, at twice torch's speed, beside sequences of many tokens too; anything else is what torch.py does well.
"""

# mypy: disallow-untyped-decorators=False
# numba's types name the compiler's objects, not what compiled code does.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from minimax_m1.kernels.formats import BFLOAT16, FORMATS, INT8, array, nearest, wide
from minimax_m1.kernels.lightning.torch import lightning as many_tokens
from minimax_m1.kernels.lightning.torch import separately
from minimax_m1.kernels.ops import Lightning
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.threads import Kernel, floats, numbers, share


def compile_lightning() -> Lightning:
    """The op, compiled."""
    kernel = Kernel(_heads, 14)

    def lightning(
        q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        form = FORMATS.get(q.dtype, INT8)
        fits = form != INT8 and q.dtype is k.dtype is v.dtype and slopes.dtype is states.dtype is torch.float32
        if torch.is_grad_enabled() or not (fits and q.is_cpu) or segments.total == 0:
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
        sums = out if out.dtype is torch.float32 else states.new_empty(sequences, heads, width)
        kernel(
            2 * states.numel(),
            *(t.data_ptr() for t in (q, k, v, slopes, states, sums, out, ends)),
            *(form, sequences, heads, width, q.stride(0), q.stride(1)),
        )
        return out, ends

    return lightning


def _heads(data: Any) -> None:
    given = numbers(data, 14)
    at_q, at_k, at_v, at_slopes, at_states, at_sums, at_out, at_ends = given[:8]
    form, sequences, heads, width, by_row, by_head = given[8:]
    asked, memory, shape = (at_q, at_k, at_v), (at_slopes, at_states, at_ends), (sequences, heads, width)
    if form == BFLOAT16:
        step(asked, memory, at_sums, at_out, shape, by_row, by_head, np.uint16)
    else:
        step(asked, memory, at_sums, at_out, shape, by_row, by_head, np.float32)


@njit(fastmath={"contract", "reassoc"})
def step(asked: Any, memory: Any, at_sums: int, at_out: int, shape: Any, by_row: int, by_head: int, kind: Any) -> None:
    """This thread's share of the heads of all sequences; q, k and v are apart by `by_row` and `by_head` numbers."""
    at_slopes, at_states, at_ends = memory
    sequences, heads, width = shape
    units, size = sequences * heads, width * width
    slopes, sums, out = floats(at_slopes, heads), floats(at_sums, units * width), array(at_out, units * width, kind)
    states, ends = floats(at_states, units * size), floats(at_ends, units * size)
    reach = (sequences - 1) * by_row + (heads - 1) * by_head + width
    qs, ks, vs = array(asked[0], reach, kind), array(asked[1], reach, kind), array(asked[2], reach, kind)
    first, stop = share(units)
    for unit in range(first, stop):
        at = unit // heads * by_row + unit % heads * by_head
        q, k, v = qs[at : at + width], ks[at : at + width], vs[at : at + width]
        mixed = sums[unit * width : (unit + 1) * width]
        decay = np.exp(-slopes[unit % heads])
        for j in range(width):
            mixed[j] = 0
        for i in range(width):
            state = states[unit * size + i * width : unit * size + (i + 1) * width]
            end = ends[unit * size + i * width : unit * size + (i + 1) * width]
            key, query = wide(k[i]), wide(q[i])
            for j in range(width):
                value = decay * state[j] + key * wide(v[j])
                end[j] = value
                mixed[j] += query * value
        for j in range(width):
            out[unit * width + j] = nearest(mixed[j], kind)
