"""One update of the weights, the same in every stage: loss, gradients, clipping, AdamW.

In: a model, its optimizer, a packed batch. Out: the step's figures. The loss is the mean of -log p over the rows
that carry weight, from a float32 head that never holds all logits at once; to it comes the routers' balance loss.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minimax_m1.errors import DataError
from minimax_m1.kernels.segments import Segments
from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import Routing, balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.train.pack import TrainingBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of one batch: `loss` weighted mean of -log p and `balance`, both with gradients; the rest is for the log."""

    loss: Tensor
    balance: Tensor
    logprobs: Tensor  # [R] of the targets
    right: Tensor  # [R] whether the target is the likeliest token
    routing: Routing


def losses(model: MiniMaxM1ForCausalLM, data: TrainingBatch, *, precision: str, recompute: bool) -> Losses:
    """The forward pass over the rows that carry loss, on the model's device."""
    device = model.device
    batch = Batch(
        ids=data.batch.ids.to(device),
        segments=Segments(data.batch.segments.cu_seqlens),
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
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    found = losses(model, data, precision=precision, recompute=recompute)
    (found.loss + model.config.router_aux_loss_coef * found.balance).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    if not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise DataError(f"the gradient's norm is {norm.item()}, so the step was not taken; try a lower learning_rate")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    figures = {
        "loss": found.loss.item(),
        "balance": found.balance.item(),
        "grad_norm": norm.item(),
        "rate": rate,
    }
    return figures | _answers(found, data) | (_routers(found.routing) if report else {})


def _answers(found: Losses, data: TrainingBatch) -> dict[str, float]:
    """Mean -log p over what the assistant says, and the share of it that was likeliest."""
    said = data.weights == 1
    if not said.any():
        return {}
    said = said.to(found.right.device)
    return {
        "answer_loss": -found.logprobs[said].mean().item(),
        "answer_accuracy": found.right[said].float().mean().item(),
    }


def _routers(routing: Routing) -> dict[str, float]:
    """`expert_load_max`: the busiest expert's tokens over the mean, in the worst layer; `router_entropy` in nats."""
    layers, worst, entropy = routing.logits.shape[0], 0.0, 0.0
    for experts, logits in zip(routing.experts, routing.logits.detach(), strict=True):
        ran = experts[:, 0] >= 0
        loads = torch.bincount(experts[ran].flatten().clamp(min=0), minlength=logits.shape[-1]).float()
        worst = max(worst, (loads.max() / loads.mean().clamp(min=1e-9)).item())
        logs = logits[ran].log_softmax(-1)
        entropy += -(logs.exp() * logs).sum(-1).mean().item() / layers
    return {"expert_load_max": worst, "router_entropy": entropy}


class Activations:
    """Counts the bytes that a forward pass keeps for its backward pass: `with Activations() as kept: ...`.

    Each storage counts once; the weights themselves are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._seen: dict[int, int] = {}
        self._hooks: Any = nullcontext()

    def __enter__(self) -> Activations:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """What was kept, in bytes."""
        return sum(self._seen.values())


def adamw(model: nn.Module, *, rate: float, betas: tuple[float, float], eps: float, decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only, not on norms or the embedding."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.dim() > 1 and "embed_tokens" not in n]
    free = [p for n, p in trained if p.dim() == 1 or "embed_tokens" in n]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, eps=eps, fused=True)
