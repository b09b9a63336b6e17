"""The optimizer of every stage: AdamW, fused, with decay where decay belongs.

In: a model whose parameters say whether they are trained. Out: `torch.optim.AdamW` over those.
"""

from __future__ import annotations

import torch
from torch import nn


def adamw(model: nn.Module, *, rate: float, betas: tuple[float, float], eps: float, decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only, not on norms or the embedding."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.dim() > 1 and "embed_tokens" not in n]
    free = [p for n, p in trained if p.dim() == 1 or "embed_tokens" in n]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, eps=eps, fused=True)
