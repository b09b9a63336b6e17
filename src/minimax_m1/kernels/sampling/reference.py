"""The draw of one id from logits: temperature, top_k, top_p, min_p, in that order.

In: logits [V] float64, -inf where an id is not allowed, and the caller's generator. Out: an id. One number is taken
from the generator for each draw and looked up in the cumulated probabilities, in the order of the ids: a seed gives
the same text whatever else runs, and noise in the last bits of the logits hardly ever changes a choice (in the order
of the probabilities, two near equals that change places would).
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    logits: Tensor, generator: torch.Generator | None, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> int:
    """Draws an id; the best id always stays in the draw, and of equals the first. `top_k` of 0 or less is off."""
    shifted = (logits - logits.max()) / temperature  # from the maximum, so no temperature overflows
    probs = shifted.softmax(0)
    if top_k > 0 or top_p < 1:
        keep = min(top_k, len(probs)) if top_k > 0 else len(probs)
        best, ids = probs.sort(descending=True, stable=True)
        best, ids = best[:keep] / best[:keep].sum(), ids[:keep]
        if top_p < 1:  # the fewest ids whose probabilities sum to at least top_p
            ids = ids[best.cumsum(0) - best < top_p]
        probs = torch.zeros_like(probs).index_copy(0, ids, probs[ids])
    if min_p > 0:
        probs = torch.where(probs >= min_p * probs.max(), probs, 0.0)
    heap = probs.cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * heap[-1]
    # Right of equal sums: an id of probability 0 has no width and cannot be hit; rounding cannot pass the last.
    return int(torch.searchsorted(heap, point, right=True).clamp(max=int(probs.nonzero()[-1])))
