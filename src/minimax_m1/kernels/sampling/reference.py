"""The draw of one id from logits: temperature, top_k, top_p, min_p, in that order.

In: logits [V] float64, -inf where an id is not allowed, and the caller's generator. Out: an id. One number is taken
from the generator for each draw and looked up in the cumulated probabilities, so a seed gives the same text whatever
else runs, and noise in the last bits of the logits hardly ever changes a choice.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    logits: Tensor, generator: torch.Generator | None, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> int:
    """Draws an id; the best id always stays in the draw. `top_k` of 0 or less is off."""
    shifted = (logits - logits.max()) / temperature  # from the maximum, so no temperature overflows
    probs = shifted.softmax(0)
    ids: Tensor | None = None
    if top_k > 0 or top_p < 1:
        keep = min(top_k, len(probs)) if top_k > 0 else len(probs)
        probs, ids = probs.topk(keep)  # sorted, best first
        probs = probs / probs.sum()
        if top_p < 1:  # the fewest ids whose probabilities sum to at least top_p
            probs = torch.where(probs.cumsum(0) - probs < top_p, probs, 0.0)
    if min_p > 0:
        probs = torch.where(probs >= min_p * probs.max(), probs, 0.0)
    heap = probs.cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * heap[-1]
    # Right of equal sums: an id of probability 0 has no width and cannot be hit; rounding cannot pass the last.
    place = int(torch.searchsorted(heap, point, right=True).clamp(max=int(probs.nonzero()[-1])))
    return place if ids is None else int(ids[place])
