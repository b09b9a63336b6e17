"""The choice of one token: logits and `SamplingParams` in, an id and its log-probability out.

Each token takes exactly one number from the request's own generator (kernels/sampling), so a seed gives the
same text whatever else runs.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError
from minimax_m1.kernels.sampling.reference import draw


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
    if params.temperature == 0:
        token = int(allowed.argmax())
    else:
        token = draw(
            allowed,
            generator,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
        )
    return token, float(logits[token] - logits.logsumexp(0))
