"""The optimizer of every stage: AdamW, fused, with decay where decay belongs.

In: a model whose parameters say whether they are trained. Out: `torch.optim.AdamW` over those; and one that goes on
from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def adamw(model: nn.Module, *, rate: float, betas: tuple[float, float], eps: float, decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only, not on norms or the embedding."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.dim() > 1 and "embed_tokens" not in n]
    free = [p for n, p in trained if p.dim() == 1 or "embed_tokens" in n]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, eps=eps, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Takes over what was learned of the gradients from an earlier `state_dict`.

    Betas, eps and decay stay as `optimizer` was made with, since a recipe may change on the way.
    """
    made = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, made, strict=True):
        group.update(own)
