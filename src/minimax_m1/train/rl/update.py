"""One optimizer step of reinforcement learning: passes over a batch of rollouts, the policy loss, AdamW.

In: a model, its optimizer, a `RolloutBatch`. Out: the step's figures. Log-probs come from a float32 head (MiniMax-M1
report, section 3.2) over the rows that predict the model's own tokens; to the loss comes the routers' balance loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from minimax_m1.kernels.head.reference import Scores
from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import Routing, balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.train.optimizer import take_step
from minimax_m1.train.rl.policy_loss import LossInputs, PolicyLoss, StepCounts, policy_loss
from minimax_m1.train.rl.rollout import RolloutBatch

_SUMMED = ("policy_loss", "balance_loss", "trained_tokens")
_LARGEST = ("weight_max", "dlogp_max")  # figures whose largest over the passes counts, not their mean


def score(
    model: MiniMaxM1ForCausalLM, rollouts: RolloutBatch, *, precision: str = "float32", recompute: bool = False
) -> tuple[Scores, Tensor, Routing]:
    """What the model gives each of its own tokens, R of them in order; their places [R] in `rollouts`; the routing.

    A prompt is read once for all of its answers: they go on from its state, through which their gradients meet.
    """
    device, lengths = model.device, rollouts.lengths.tolist()
    sequences = [ids.tolist() for ids in rollouts.ids.split(lengths)]
    # The prompt's last token is each answer's own: it predicts the first token, and another one in each pass.
    shared = [count - 1 for count in rollouts.prompts()]
    begins = [tuple(ids[:count]) for ids, count in zip(sequences, shared, strict=True)]
    which = {begin: number for number, begin in enumerate(dict.fromkeys(begins))}
    rests = [ids[count:] for ids, count in zip(sequences, shared, strict=True)]
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        state = model.empty_state(len(which))
        asked = model.run(Batch.of(list(which), state, device), state, logits="none", head=False, recompute=recompute)
        state = asked.state.at([which[begin] for begin in begins])
        run = model.run(Batch.of(rests, state, device), state, logits="all", head=False, recompute=recompute)
    assert run.hidden is not None
    # Row r of an answer predicts its token r + 1; the last row predicts nothing.
    starts = [end - length + count for end, length, count in zip(accumulate(lengths), lengths, shared, strict=True)]
    rows, places = [], []
    first = 0
    for start, rest in zip(starts, rests, strict=True):
        own = rollouts.own[start + 1 : start + len(rest)].nonzero()[:, 0]
        rows.append(own + first)
        places.append(own + start + 1)
        first += len(rest)
    at = torch.cat(places)
    scores = model.ops.head(run.hidden[torch.cat(rows).to(device)], model.lm_head.weight, rollouts.ids[at].to(device))
    return scores, at, Routing.concat([asked.routing, run.routing])


def update(
    model: MiniMaxM1ForCausalLM,
    optimizer: torch.optim.Optimizer,
    rollouts: RolloutBatch,
    loss: PolicyLoss,
    *,
    rate: float,
    clip_norm: float,
    batch_tokens: int,
    precision: str = "float32",
    recompute: bool = False,
) -> dict[str, float]:
    """One update; gives its figures: `policy_loss`'s over all passes, `policy_loss`, `balance_loss`, `grad_norm`,
    `trained_tokens` that went through the model, a prompt once a pass.

    Raises DataError where the gradient is not finite; the weights are then as they were.
    """
    model.train()
    sequence = torch.repeat_interleave(torch.arange(len(rollouts)), rollouts.lengths)
    counts = StepCounts.of(rollouts.own, sequence, rollouts.groups)
    told: list[dict[str, float]] = []
    first = 0
    for part in rollouts.passes(batch_tokens):
        told.append(_backward(model, part, first, counts, loss, len(rollouts.ids), precision, recompute))
        first += len(part)
    norm = take_step(model, optimizer, rate=rate, clip_norm=clip_norm)
    return {**_merged(told), "grad_norm": norm, "learning_rate": rate}


def _backward(
    model: MiniMaxM1ForCausalLM,
    part: RolloutBatch,
    first: int,
    counts: StepCounts,
    loss: PolicyLoss,
    tokens: int,
    precision: str,
    recompute: bool,
) -> dict[str, float]:
    """One pass; `first` is the step's number of its first sequence, `tokens` those of the whole step."""
    scores, places, routing = score(model, part, precision=precision, recompute=recompute)
    device = scores.logprob.device
    sequence = torch.repeat_interleave(torch.arange(len(part)), part.lengths)[places]
    inputs = LossInputs(
        logprobs=scores.logprob,
        old_logprobs=part.logprobs[places].to(device),
        advantages=part.advantages[sequence].to(device),
        mask=torch.ones(len(places), dtype=torch.bool, device=device),
        sequences=(sequence + first).to(device),
        entropy=scores.entropy,
    )
    value, figures = policy_loss(loss, inputs, counts)
    balance = balance_loss(routing)
    share = len(part.ids) / tokens
    (value + model.config.router_aux_loss_coef * share * balance).backward()
    trained = {"trained_tokens": float(routing.experts.shape[1])}
    return {**figures, **trained, "policy_loss": value.item(), "balance_loss": share * balance.item()}


def _merged(told: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of a step out of those of its passes: sums of `_SUMMED`, means over tokens, the largest of `_LARGEST`."""
    merged: dict[str, float] = {"tokens": sum(each["tokens"] for each in told)}
    for name in dict.fromkeys(name for each in told for name in each if name != "tokens"):
        some = [(each[name], each["tokens"]) for each in told if name in each]
        if name in _SUMMED:
            merged[name] = sum(value for value, _ in some)
        elif name in _LARGEST:
            merged[name] = max(value for value, _ in some)
        elif weight := sum(tokens for _, tokens in some):
            merged[name] = sum(value * tokens for value, tokens in some) / weight
    return merged
