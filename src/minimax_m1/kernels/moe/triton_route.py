"""Routing on a GPU in one launch: softmax, the best K, their weights and the threshold. In and out as in route.py.

For inference: no gradients. Of equals the first expert is the better, and a row that holds what is not a number goes to
its first K experts, with weights that are no numbers either.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimax_m1.kernels.moe.route import DROPPED

_MOST_EXPERTS = 256


def route(logits: Tensor, top_k: int, threshold: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits [T, E], float32 -> experts [T, K] int64, best first, and weights [T, K] float32 that sum to 1.

    `threshold` in (0, 1] is one number or one per token [T]. ValueError for another dtype or more than 256 experts.
    """
    tokens, count = logits.shape
    if logits.dtype is not torch.float32 or count > _MOST_EXPERTS:
        raise ValueError(
            f"router logits {list(logits.shape)} in {logits.dtype} are not supported: float32 and up to "
            f"{_MOST_EXPERTS} experts are"
        )
    assert 0 < top_k <= count, f"{top_k} of {count} experts"
    assert not (torch.is_grad_enabled() and logits.requires_grad), "this route has no gradient; route.py's has"
    limits = threshold if isinstance(threshold, Tensor) else None
    assert limits is None or limits.numel() in (1, tokens), f"{tokens} tokens, thresholds {list(limits.shape)}"
    logits = logits.contiguous()
    experts = logits.new_empty(tokens, top_k, dtype=torch.int64)
    weights = logits.new_empty(tokens, top_k)
    padded = max(2, triton.next_power_of_2(count))
    rows = max(1, 1024 // padded)
    if tokens:
        _route[(triton.cdiv(tokens, rows),)](
            logits,
            None if limits is None else limits.contiguous(),
            1.0 if isinstance(threshold, Tensor) else float(threshold),
            experts,
            weights,
            tokens,
            0 if limits is None or limits.numel() == 1 else 1,
            EXPERTS=count,
            PADDED=padded,
            SLOTS=top_k,
            PADDED_SLOTS=max(2, triton.next_power_of_2(top_k)),
            ROWS=rows,
            NOBODY=DROPPED,
            num_warps=4,
        )
    return experts, weights


@triton.jit
def _route(
    logits_ptr,
    limits_ptr,
    limit,
    experts_ptr,
    weights_ptr,
    tokens,
    limit_stride,
    EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    SLOTS: tl.constexpr,
    PADDED_SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    NOBODY: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    expert = tl.arange(0, PADDED)[None, :]  # [1, PADDED]
    slot = tl.arange(0, PADDED_SLOTS)[None, :]  # [1, PADDED_SLOTS]
    here = (row < tokens)[:, None] & (expert < EXPERTS)
    logits = tl.load(logits_ptr + row[:, None] * EXPERTS + expert, here, 0.0)
    logits = tl.where(expert < EXPERTS, logits, float("-inf"))
    shares = tl.exp(logits - tl.max(logits, 1)[:, None])
    shares /= tl.sum(shares, 1)[:, None]
    known = shares == shares  # a softmax holds numbers only, or none
    rank = tl.where(expert < EXPERTS, tl.where(known, shares, 0.0), -1.0)
    best = tl.zeros([ROWS, PADDED_SLOTS], tl.float32)
    chosen = tl.zeros([ROWS, PADDED_SLOTS], tl.int32)
    for k in tl.static_range(SLOTS):
        first = tl.argmax(rank, 1)[:, None]  # the first of equals
        share = tl.sum(tl.where(expert == first, shares, 0.0), 1)[:, None]
        best = tl.where(slot == k, share, best)
        chosen = tl.where(slot == k, first, chosen)
        rank = tl.where(expert == first, -1.0, rank)
    weights = best / tl.sum(best, 1)[:, None]
    if limits_ptr is not None:
        limit = tl.load(limits_ptr + row * limit_stride, row < tokens, 1.0).to(tl.float32)[:, None]
    before = tl.zeros([ROWS, PADDED_SLOTS], tl.float32)  # weight gathered by the better experts
    for k in tl.static_range(SLOTS - 1):
        before += tl.where(slot > k, tl.sum(tl.where(slot == k, weights, 0.0), 1)[:, None], 0.0)
    dropped = (before >= limit) & (limit < 1)
    weights = tl.where(dropped, 0.0, weights)
    weights /= tl.where(limit < 1, tl.sum(weights, 1)[:, None], 1.0)
    chosen = tl.where(dropped, NOBODY, chosen).to(tl.int64)
    there = (row < tokens)[:, None] & (slot < SLOTS)
    tl.store(experts_ptr + row[:, None] * SLOTS + slot, chosen, there)
    tl.store(weights_ptr + row[:, None] * SLOTS + slot, weights, there)
