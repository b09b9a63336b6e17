"""The decode step of a lightning mixer said plainly with the references of its parts: from one projection to the next.

In: qkv [N, 3HD], head-major (q, k, v of head 0, then of head 1, ...), and gate [N, HD], one token a sequence; norm
[HD], eps and slopes [H]; `Slots`, whose states are written in place. Out: [N, HD] in qkv's dtype, zeros in rows of
nobody.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.lightning.reference import lightning
from minimax_m1.kernels.norm.reference import gated_rms_norm
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots


def recurrent(qkv: Tensor, gate: Tensor, norm: Tensor, eps: float, slopes: Tensor, states: Slots) -> Tensor:
    """SiLU, one step of the recurrence, the norm over all heads, the gate."""
    heads, width = states.pool.shape[1:3]
    out = torch.zeros_like(gate)
    rows = torch.nonzero(states.index >= 0).flatten()
    if len(rows):
        slots = states.index[rows].long()
        q, k, v = silu(qkv[rows]).view(len(rows), heads, 3 * width).split(width, -1)
        mixed, states.pool[slots] = lightning(q, k, v, slopes, Segments.of([1] * len(rows)), states.pool[slots])
        out[rows] = gated_rms_norm(mixed.flatten(1), gate[rows], norm, eps)
    return out
