"""The optimizer of every stage: AdamW, fused, with decay where decay belongs.

In: a model whose parameters say whether they are trained. Out: `torch.optim.AdamW` over those; one that goes on from a
checkpoint; and the step that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from minimax_m1.errors import DataError


def adamw(model: nn.Module, *, rate: float, betas: tuple[float, float], eps: float, decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only, not on norms or the embedding."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.dim() > 1 and "embed_tokens" not in n]
    free = [p for n, p in trained if p.dim() == 1 or "embed_tokens" in n]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, eps=eps, fused=True)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, *, rate: float, clip_norm: float) -> float:
    """Clips the gradients, moves the weights, clears the gradients; gives their norm before it was clipped.

    Raises DataError where that is not finite; weights and optimizer are then as they were.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip_norm).item()
    if not math.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise DataError(f"the gradient's norm is {norm}, so the step was not taken; try a lower learning_rate")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Takes over what was learned of the gradients from an earlier `state_dict`.

    Betas, eps and decay stay as `optimizer` was made with, since a recipe may change on the way.
    """
    made = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, made, strict=True):
        group.update(own)
