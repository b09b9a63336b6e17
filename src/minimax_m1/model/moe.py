"""The mixture of experts: a float32 router, stacked experts, the optional shared expert, the balance loss.

In: normed hidden states [T, M]. Out: [T, M] and a `Routing`: who went where. MiniMax-01 section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.kernels.moe.route import DROPPED, route
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.precision import KeepsFloat32, uncast


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """One layer's choices, or all layers' with a leading L: experts [T, K] best first (-1 dropped by the threshold),
    weights [T, K] (0 where dropped, else summing to 1), logits [T, E] in float32 or better."""

    experts: Tensor
    weights: Tensor
    logits: Tensor

    def spread(self, rows: Tensor, total: int) -> Routing:
        """These rows [R] put back among `total`; the others went to no expert: -1, weight 0, logits 0."""

        def among(values: Tensor, fill: int) -> Tensor:
            return values.new_full((total, values.shape[1]), fill).index_copy(0, rows, values)

        return Routing(
            experts=among(self.experts, DROPPED), weights=among(self.weights, 0), logits=among(self.logits, 0)
        )

    def loads(self) -> Tensor:
        """Slots that each expert got, [L, E] in the logits' dtype; those that were dropped do not count."""
        chosen = (self.experts - DROPPED).flatten(-2)  # [L, T K], 0 where a slot was dropped
        counts = self.logits.new_zeros(*chosen.shape[:-1], self.logits.shape[-1] + 1)
        # Not a bincount, for which the host waits on a GPU.
        return counts.scatter_add_(-1, chosen, torch.ones_like(chosen, dtype=counts.dtype))[..., 1:]

    @staticmethod
    def concat(runs: Sequence[Routing]) -> Routing:
        """The tokens of several runs in a row, [L, T, ...] of every field."""
        return Routing(
            experts=torch.cat([r.experts for r in runs], 1),
            weights=torch.cat([r.weights for r in runs], 1),
            logits=torch.cat([r.logits for r in runs], 1),
        )

    @staticmethod
    def stack(layers: list[Routing]) -> Routing:
        """[L, T, ...] of every field."""
        return Routing(
            experts=torch.stack([r.experts for r in layers]),
            weights=torch.stack([r.weights for r in layers]),
            logits=torch.stack([r.logits for r in layers]),
        )


class Gate(KeepsFloat32):
    """Router logits in float32 or better; weight [E, M] stays float32 in a bf16 model."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        with uncast(x.device):
            return linear(x.to(self.weight.dtype), self.weight)


class Experts(nn.Module):
    """All experts of a layer, stacked: w13 [E, 2F, M] (w1 the gate, then w3 the up rows), w2 [E, M, F].

    A checkpoint holds them apart under the published names; checkpoint.py maps between the two.
    """

    def __init__(self, config: MiniMaxM1Config) -> None:
        super().__init__()
        experts, width, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.w13 = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.w2 = nn.Parameter(torch.empty(experts, width, inner))

    def weights(self) -> tuple[Tensor, Tensor]:
        """w13 and w2, as `Ops.moe` takes them."""
        return self.w13, self.w2


class SparseMoE(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, config: MiniMaxM1Config) -> None:
        super().__init__()
        self.top_k, self.jitter = config.num_experts_per_tok, config.router_jitter_noise
        self.gate = Gate(config.hidden_size, config.num_local_experts)
        self.experts = Experts(config)

    def forward(self, x: Tensor, threshold: Tensor | float, ops: Ops) -> tuple[Tensor, Routing]:
        """x [T, M], threshold one number or [T] -> [T, M], routing."""
        if self.training and self.jitter > 0:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        logits = self.gate(x)
        experts, weights = route(logits, self.top_k, threshold)
        out = ops.moe(x, experts, weights, *self.experts.weights())
        return out, Routing(experts=experts, weights=weights, logits=logits)


def balance_loss(routing: Routing) -> Tensor:
    """E · Σ f·P over all layers pooled: f the share of tokens an expert gets in a top-k slot, P its mean probability.

    `top_k` at perfect balance. The published form (`load_balancing_loss_func`); multiply by router_aux_loss_coef.
    Rows that went to no expert, as those that nobody asked of the last layer, do not count.
    """
    experts, logits = routing.experts.flatten(0, -2), routing.logits.flatten(0, -2)  # [L T, K], [L T, E]
    count = logits.shape[-1]
    chosen = routing.loads().reshape(-1, count).sum(0)
    ran = (experts[:, :1] != DROPPED).to(logits.dtype)  # the best expert is never dropped where any ran
    return count * (chosen * (logits.softmax(-1) * ran).sum(0)).sum() / ran.sum() ** 2
