"""One update of the weights, the same in every stage: loss, gradients, clipping, the optimizer's step.

In: a model, its optimizer, a packed batch. Out: the step's figures. The loss is the weighted mean of -log p, from a
float32 head that never holds all logits at once; to it comes the routers' balance loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import Routing, balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.train.optimizer import take_step
from minimax_m1.train.pack import TrainingBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of one batch of R targets. `loss` and `balance` have gradients; the rest is for the log."""

    loss: Tensor  # [] weighted mean of -log p, in nats a token
    balance: Tensor  # [] the routers' balance loss, without its coefficient; top_k where experts share evenly
    logprobs: Tensor  # [R] of the targets, in nats
    right: Tensor  # [R] bool, whether the target is the likeliest token
    routing: Routing


def losses(model: MiniMaxM1ForCausalLM, data: TrainingBatch, *, precision: str, recompute: bool) -> Losses:
    """The forward pass over the rows that carry loss, on the model's device."""
    device = model.device
    batch = Batch(
        ids=data.batch.ids.to(device),
        segments=data.batch.segments,
        positions=data.batch.positions.to(device),
    )
    weights = data.weights.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        run = model.run(
            batch, model.empty_state(len(batch.segments)), logits=data.tail, head=False, recompute=recompute
        )
    assert run.hidden is not None
    scores = model.ops.head(run.hidden, model.lm_head.weight, data.targets.to(device))
    return Losses(
        loss=-(scores.logprob * weights).sum() / weights.sum(),
        balance=balance_loss(run.routing),
        logprobs=scores.logprob.detach(),
        right=scores.right,
        routing=run.routing,
    )


def train_step(
    model: MiniMaxM1ForCausalLM,
    optimizer: torch.optim.Optimizer,
    data: TrainingBatch,
    *,
    rate: float,
    clip_norm: float,
    precision: str = "float32",
    recompute: bool = False,
    report: bool = True,
) -> dict[str, float]:
    """One update; gives its figures, those of the routers only where a `report` is wanted.

    Raises DataError where the gradient is not finite; the weights are then as they were.
    """
    model.train()
    found = losses(model, data, precision=precision, recompute=recompute)
    (found.loss + model.config.router_aux_loss_coef * found.balance).backward()
    norm = take_step(model, optimizer, rate=rate, clip_norm=clip_norm)
    figures = {
        "loss": found.loss.item(),
        "balance_loss": found.balance.item(),
        "grad_norm": norm,
        "learning_rate": rate,
    }
    return figures | _answers(found, data) | (_routers(found.routing) if report else {})


def _answers(found: Losses, data: TrainingBatch) -> dict[str, float]:
    """Mean -log p in nats over what is learned in full, and the share of it that was likeliest."""
    if not data.learned.any():
        return {}
    learned = data.learned.to(found.right.device)
    return {
        "answer_loss": -found.logprobs[learned].mean().item(),
        "answer_accuracy": found.right[learned].float().mean().item(),
    }


def _routers(routing: Routing) -> dict[str, float]:
    """`expert_load_max`: the busiest expert's tokens over the mean, in the worst layer; `router_entropy` in nats."""
    layers, worst, entropy = routing.logits.shape[0], 0.0, 0.0
    for experts, logits in zip(routing.experts, routing.logits.detach(), strict=True):
        ran = experts[:, 0] >= 0
        loads = torch.bincount(experts[experts >= 0], minlength=logits.shape[-1]).float()  # dropped slots are below 0
        worst = max(worst, (loads.max() / loads.mean().clamp(min=1e-9)).item())
        logs = logits[ran].log_softmax(-1)
        entropy += -(logs.exp() * logs).sum(-1).mean().item() / layers
    return {"expert_load_max": worst, "router_entropy": entropy}
