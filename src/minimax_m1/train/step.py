"""One update of the weights, the same in every stage: loss, gradients, clipping, the optimizer's step.

In: a model, its optimizer, a packed batch. Out: the step's figures. The loss is the weighted mean of -log p, from a
float32 head that never holds all logits at once; to it comes the routers' balance loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minimax_m1.kernels.moe.route import DROPPED
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
        ids=_sent(data.batch.ids, device),
        segments=data.batch.segments,
        positions=_sent(data.batch.positions, device),
    )
    weights, targets = _sent(data.weights, device), _sent(data.targets, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        run = model.run(
            batch, model.empty_state(len(batch.segments)), logits=data.tail, head=False, recompute=recompute
        )
    assert run.hidden is not None
    scores = model.ops.head(run.hidden, model.lm_head.weight, targets)
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
    told = {"loss": found.loss.detach(), "balance_loss": found.balance.detach(), **_answers(found, data)}
    if report:
        told |= _routers(found.routing)
    # One copy from the device, and before the optimizer's step, so that the next batch is made while that still runs.
    figures = dict(zip(told, torch.stack([value.double() for value in told.values()]).tolist(), strict=True))
    norm = take_step(model, optimizer, rate=rate, clip_norm=clip_norm)
    return {**figures, "grad_norm": norm, "learning_rate": rate}


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what that has to do before."""
    return tensor.to(device, non_blocking=True)


def _answers(found: Losses, data: TrainingBatch) -> dict[str, Tensor]:
    """Mean -log p in nats over what is learned in full, and the share of it that was likeliest."""
    rows = data.learned.nonzero()[:, 0]  # counted on the host: a mask on a device would wait for it
    if not len(rows):
        return {}
    rows = _sent(rows, found.right.device)
    return {
        "answer_loss": -found.logprobs[rows].mean(),
        "answer_accuracy": found.right[rows].float().mean(),
    }


def _routers(routing: Routing) -> dict[str, Tensor]:
    """`expert_load_max`: the busiest expert's tokens over the mean, in the worst layer; `router_entropy` in nats."""
    logs = routing.logits.detach().log_softmax(-1)  # [L, T, E]
    loads = routing.loads()  # [L, E]
    ran = routing.experts[..., 0] != DROPPED  # [L, T], of the last layer perhaps few
    entropy = -(logs.exp() * logs).sum(-1)
    return {
        "expert_load_max": (loads.amax(1) / loads.mean(1).clamp(min=1e-9)).max(),
        "router_entropy": ((entropy * ran).sum(1) / ran.sum(1)).mean(),
    }
