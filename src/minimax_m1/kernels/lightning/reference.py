"""Lightning attention said plainly: each head keeps one state, decays it, adds k vᵀ, reads it with q.

In: q, k, v [T, H, D] packed; slopes [H]; segments of N sequences; states [N, H, D, D], at least float32.
Out: mixed values [T, H, D]; the states after each last token. Slow on purpose: every kernel answers to it.
S_t = exp(-slope) S_{t-1} + k_tᵀ v_t and o_t = q_t S_t (MiniMax-01, arXiv 2501.08313, section 2.2).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from minimax_m1.kernels.segments import Segments


def lightning(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence token by token; differentiable in q, k, v and states."""
    assert q.shape == k.shape == v.shape and len(states) == len(segments)
    decay = torch.exp(-slopes.to(states.dtype))[:, None, None]
    out, ends = [q.new_empty(0, *q.shape[1:])], []
    for state, (start, stop) in zip(states, pairwise(segments.cu_seqlens), strict=True):
        for t in range(start, stop):
            state = decay * state + k[t, :, :, None].to(states.dtype) * v[t, :, None, :].to(states.dtype)  # [H, D, D]
            out.append((q[None, t, :, None, :].to(states.dtype) @ state)[:, :, 0].to(q.dtype))  # [1, H, D]
        ends.append(state)
    return torch.cat(out), torch.stack(ends)
