"""The draw for many rows at once, on the device that holds their logits and without a word to the host.

In: scores [N, V], -inf where an id is not allowed; for each row its settings and one number in [0, 1). Out: ids [N].
As reference.py, in the scores' dtype with sums in float64. An engine on a GPU draws so; on a CPU engine/sampler.py is
faster, since it sums over stretches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    scores: Tensor,
    points: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
) -> Tensor:
    """Ids int64 [N]. All settings are [N] on the scores' device, points and top_p float64; None is off for all rows.

    `top_k` is from 1 to V, V being off. A sort is only paid for where top_k or top_p is given.
    """
    heat = temperature.to(scores.dtype).clamp(min=torch.finfo(scores.dtype).tiny)
    probs = ((scores - scores.amax(1, keepdim=True)) / heat[:, None]).exp()  # the sum does not matter
    if top_k is not None or top_p is not None:
        probs = _best(probs, top_k, top_p)
    if min_p is not None:
        probs = probs.masked_fill(probs < min_p.to(probs.dtype)[:, None], 0)  # the best is exactly 1
    return _first_past(probs, points)


def _best(probs: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """The probabilities that stay, 0 for the others; of ids that tie for the last place the first stay."""
    vocab = probs.shape[1]
    order = probs.sort(1, descending=True).values
    if top_k is not None:
        order = order.masked_fill(torch.arange(vocab, device=probs.device) >= top_k[:, None], 0)
    kept = probs.new_full((len(probs),), vocab, dtype=torch.long) if top_k is None else top_k
    if top_p is not None:  # the fewest ids whose probabilities sum to at least top_p
        sums = order.cumsum(1, dtype=torch.float64)
        reach = torch.searchsorted(sums, top_p[:, None] * sums[:, -1:])[:, 0] + 1
        kept = torch.where(top_p < 1, reach.clamp(max=vocab), kept)
    least = order.gather(1, kept[:, None] - 1)
    ties = probs == least
    room = kept[:, None] - (probs > least).sum(1, keepdim=True)
    return probs.where((probs > least) | (ties & (ties.cumsum(1) <= room)), 0)


def _first_past(probs: Tensor, points: Tensor) -> Tensor:
    """The first id whose running sum goes past its row's share `points` of the whole: never one of probability 0."""
    sums = probs.cumsum(1, dtype=torch.float64)
    found = torch.searchsorted(sums, points[:, None] * sums[:, -1:], right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())  # rounding may point beyond the sum's last step
    return torch.minimum(found, last)[:, 0]
