"""The choice of one token: logits and `SamplingParams` in, an id and its log-probability out.

The order is temperature, top_k, top_p, min_p. Each token takes exactly one number from the request's
own generator and looks it up in the cumulated probabilities, so a seed gives the same text whatever
else runs, and noise in the last bits of the logits hardly ever changes a choice.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError


def generator_of(params: SamplingParams) -> torch.Generator:
    """A CPU generator of the request's own, from its seed or from the system's entropy."""
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def sample(
    logits: Tensor, params: SamplingParams, generator: torch.Generator, banned: Collection[int] = ()
) -> tuple[int, float]:
    """Chooses one id from `logits` [V] and tells its log-probability under the unchanged logits.

    `banned` ids are never chosen; if that leaves none, they are allowed again.

    Raises:
        RequestError: a logit is NaN or infinite.
    """
    logits = logits.detach().cpu().double()
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise RequestError(f"the model gave {bad} of {len(logits)} logits that are not finite numbers")
    allowed = logits
    if banned and len(set(banned)) < len(logits):
        allowed = logits.index_fill(0, torch.tensor(sorted(set(banned))), -torch.inf)
    token = int(allowed.argmax()) if params.temperature == 0 else _draw(allowed, params, generator)
    return token, float(logits[token] - logits.logsumexp(0))


def _draw(logits: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """Draws an id; `logits` [V] float64, -inf where banned. The best id always stays in the draw."""
    shifted = (logits - logits.max()) / params.temperature  # from the maximum, so no temperature overflows
    probs = shifted.softmax(0)
    ids: Tensor | None = None
    if params.top_k > 0 or params.top_p < 1:
        keep = min(params.top_k, len(probs)) if params.top_k > 0 else len(probs)
        probs, ids = probs.topk(keep)  # sorted, best first
        probs = probs / probs.sum()
        if params.top_p < 1:  # the fewest ids whose probabilities sum to at least top_p
            probs = torch.where(probs.cumsum(0) - probs < params.top_p, probs, 0.0)
    if params.min_p > 0:
        probs = torch.where(probs >= params.min_p * probs.max(), probs, 0.0)
    heap = probs.cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * heap[-1]
    # Right of equal sums: an id of probability 0 has no width and cannot be hit; rounding cannot pass the last.
    place = int(torch.searchsorted(heap, point, right=True).clamp(max=int(probs.nonzero()[-1])))
    return place if ids is None else int(ids[place])
