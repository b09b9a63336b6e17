"""The head said plainly: what each row thinks of one token, with all logits at once.

In: hidden states x [R, M] after the final norm, the head's weight [V, M], the token asked about in each row [R].
Out: `Scores`. Products and sums are float32 or better whatever the dtypes and whatever autocast says (MiniMax-M1
report, section 3.2). Slow on purpose, and R x V in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """For each row [R]: `logprob` of its target and `entropy` of its distribution, both in nats and in float32 or
    better, and `right`, whether the target is the likeliest token. Only `logprob` carries gradients."""

    logprob: Tensor
    entropy: Tensor
    right: Tensor


def logprobs(x: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """Scores of `targets` [R] int64, each below V; differentiable in x and weight."""
    kind = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        logits = x.to(kind) @ weight.to(kind).T
    logs = logits.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    return Scores(logs.gather(1, targets[:, None])[:, 0], entropy.detach(), logits.argmax(-1) == targets)
