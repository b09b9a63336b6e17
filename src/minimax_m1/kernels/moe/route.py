"""Which experts a token goes to, and with what weight.

In: router logits [T, E] (float32 or better). Out: experts [T, K], best first, and weights [T, K] that sum to 1.
softmax over E, top K, renormalised; then, below a threshold of 1, only the fewest experts whose renormalised
weights reach it: those dropped have expert -1 and weight 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

DROPPED = -1


def route(logits: Tensor, top_k: int, threshold: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Experts (int64) and weights (the logits' dtype); differentiable in the logits.

    `threshold` in (0, 1] is one number or one per token [T]; 1 keeps all K.
    """
    best, experts = logits.softmax(-1).topk(top_k)
    weights = best / best.sum(-1, keepdim=True)
    if isinstance(threshold, float) and threshold >= 1.0:
        return experts, weights
    limit = torch.as_tensor(threshold, dtype=weights.dtype, device=weights.device).reshape(-1, 1)
    before = weights.cumsum(-1) - weights  # weight gathered by the better experts
    dropped = (before >= limit) & (limit < 1)
    weights = weights.masked_fill(dropped, 0.0)
    return experts.masked_fill(dropped, DROPPED), weights / weights.sum(-1, keepdim=True)
