"""The policy loss: MiniMax-M1's CISPO, and REINFORCE, GRPO and DAPO beside it (M1 report, arXiv 2506.13585, Eq. 1-7).

In: log-probs of sampled tokens with gradients, those of the sampler, advantages, a mask, and what the step counts.
Out: one number to minimise and figures for the log. Beside it lies what feeds it, advantages (Eq. 2) and the length
penalty, and how well trainer and sampler agree. Nothing here samples, drops prompts, or talks to other processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from minimax_m1.errors import DataError

Algorithm = Literal["cispo", "reinforce", "grpo", "dapo"]
TokenMask = Literal["none", "ppo_region"]
LossNorm = Literal["group_token", "batch_token", "sample", "fixed_length"]

_CAP = 5.0  # ScaleRL (arXiv 2510.13786) finds 4, 5 and 8 equally good; the M1 report does not publish its own
_CLIPS = {"dapo": (0.2, 0.28)}  # of the trust region below and above 1, as published
_CLIP = (0.2, 0.2)  # PPO's, and GRPO's
_FAR = 20.0  # nats; e^20 stays finite in float32, squares included


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """Which loss; r is the token's probability over the sampler's, and None means "not given".

    `algorithm` says what one token adds:
        reinforce: sg(r) A log p (Eq. 3).
        cispo: sg(r') A log p with r' = r kept between `is_weight_min` and the cap (Eq. 4 and 5), so that every token
            has a gradient; the weight is limited whatever the sign of A.
        grpo, dapo: min(r A, clip(r) A) (Eq. 1, without its KL term); they differ in `clip_high` alone. What is
            published as GRPO goes with `loss_norm="sample"`, DAPO with "group_token".
    The cap is absolute: `is_weight_max=5` is TRL's epsilon_high=5, and `eps_high=5` is a cap of 6, as in the report,
    verl, slime and NeMo-RL. `token_mask="ppo_region"` drops tokens outside the trust region on the side that A pushes
    them to (Eq. 6 and 7): reinforce with that mask has GRPO's gradient.
    `loss_norm` says what the tokens of one optimizer step are divided by:
        group_token: by the tokens of their group, then the mean over groups: Eq. 4 to the letter.
        batch_token: by all tokens (TRL, verl and NeMo-RL for CISPO and DAPO).
        sample: by the tokens of their sequence, then the mean over sequences (GRPO).
        fixed_length: by `max_length`, then the mean over sequences (Dr. GRPO, arXiv 2503.20783).
    Raises DataError naming the field: a value out of range, or a field that the chosen algorithm would not read.
    """

    algorithm: Algorithm = "cispo"
    is_weight_max: float | None = None  # cispo's cap, at least 1; 5.0 where `eps_high` is not given either
    eps_high: float | None = None  # or the report's spelling of it: the cap is 1 + eps_high
    is_weight_min: float = 0.0  # cispo's floor; above 0 it keeps alive tokens that the policy has left
    token_mask: TokenMask = "none"
    clip_low: float | None = None  # trust region of grpo, dapo and the token mask: 1 - clip_low, 0.2 if not given
    clip_high: float | None = None  # to 1 + clip_high; if not given 0.28 for dapo, 0.2 for the others
    loss_norm: LossNorm = "group_token"
    max_length: int = 0  # tokens; for fixed_length alone
    rollout_weight_max: float = 2.0  # most of the second weight, where the inputs bring `rollout_logprobs`

    def __post_init__(self) -> None:
        for name, kinds in (("algorithm", Algorithm), ("token_mask", TokenMask), ("loss_norm", LossNorm)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise DataError(f"{name} must be one of {', '.join(get_args(kinds))}, got {value!r}")
        self._check_weights()
        self._check_region()
        if (self.loss_norm == "fixed_length") != (self.max_length > 0):
            raise DataError(
                "fixed_length needs max_length above 0 and no other loss_norm reads it, "
                f"got loss_norm {self.loss_norm} and max_length {self.max_length}"
            )
        if not self.rollout_weight_max >= 1:
            raise DataError(f"rollout_weight_max must be at least 1, got {self.rollout_weight_max}")

    def _check_weights(self) -> None:
        given = self.is_weight_max is not None or self.eps_high is not None
        if self.algorithm != "cispo" and (given or self.is_weight_min):
            raise DataError(
                f"is_weight_max, eps_high and is_weight_min are cispo's, and the algorithm is {self.algorithm}"
            )
        if self.is_weight_max is not None and self.eps_high is not None:
            raise DataError(
                f"give is_weight_max or eps_high, which is is_weight_max - 1, and not both; "
                f"got {self.is_weight_max} and {self.eps_high}"
            )
        if self.eps_high is not None and not self.eps_high >= 0:
            raise DataError(f"eps_high must be at least 0, got {self.eps_high}")
        if self.is_weight_max is not None and not self.is_weight_max >= 1:
            raise DataError(
                "is_weight_max is absolute and must be at least 1, the weight of a token whose probability "
                f"has not changed, got {self.is_weight_max}; a cap of 1 + {self.is_weight_max} is eps_high"
            )
        if not 0 <= self.is_weight_min <= 1:
            raise DataError(f"is_weight_min must be between 0 and 1, got {self.is_weight_min}")

    def _check_region(self) -> None:
        clips = self.algorithm in ("grpo", "dapo")
        if clips and self.token_mask != "none":
            raise DataError(f"{self.algorithm} has its own trust region, so token_mask must be none")
        given = self.clip_low is not None or self.clip_high is not None
        if given and not clips and self.token_mask == "none":
            raise DataError(
                f"{self.algorithm} reads clip_low and clip_high only with token_mask ppo_region; "
                "the cap of cispo is is_weight_max"
            )
        low, high = self.region
        if not (0 <= low <= 1 <= high):
            raise DataError(
                f"clip_low must be between 0 and 1 and clip_high at least 0, got {self.clip_low} and {self.clip_high}"
            )

    @property
    def weights(self) -> tuple[float, float]:
        """The least and the most that sg(r') may be, as absolute weights."""
        if self.algorithm != "cispo":
            return 0.0, math.inf
        if self.eps_high is not None:
            return self.is_weight_min, 1 + self.eps_high
        return self.is_weight_min, _CAP if self.is_weight_max is None else self.is_weight_max

    @property
    def region(self) -> tuple[float, float]:
        """The trust region's ends, as absolute ratios."""
        low, high = _CLIPS.get(self.algorithm, _CLIP)
        low = low if self.clip_low is None else self.clip_low
        high = high if self.clip_high is None else self.clip_high
        return 1 - low, 1 + high


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """R tokens of one micro-batch; where the mask is 0 all other values may be anything, NaN included."""

    logprobs: Tensor  # [R] nats, with gradients: of the model that learns
    old_logprobs: Tensor  # [R] of the sampler; or, with `rollout_logprobs`, of the trainer before the first update
    advantages: Tensor  # [R]; those of sequences are `advantages[sequences]`
    mask: Tensor  # [R] 1 or True: the model's own token; 0: a prompt's, or what a tool put out
    sequences: Tensor  # [R] int64: which sequence of the step each token is of
    rollout_logprobs: Tensor | None = None  # [R] of the sampler: a second weight, old over rollout, is truncated
    entropy: Tensor | None = None  # [R] nats, for the log

    def __post_init__(self) -> None:
        rows = self.logprobs.shape
        given = (self.old_logprobs, self.advantages, self.mask, self.sequences, self.rollout_logprobs, self.entropy)
        assert len(rows) == 1 and all(tensor is None or tensor.shape == rows for tensor in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What one optimizer step holds: all its micro-batches on all ranks, and nothing of other steps.

    So the losses of micro-batches and ranks sum up to the loss of the step. Where gradients are averaged over ranks,
    multiply the loss by their number.
    """

    tokens: Tensor  # [N] int64: the model's own tokens of each sequence
    groups: Tensor  # [N] int64: which group (the samples of one prompt) each sequence is of; any numbers

    def __post_init__(self) -> None:
        assert self.tokens.dim() == 1 and self.tokens.shape == self.groups.shape

    @classmethod
    def of(cls, mask: Tensor, sequences: Tensor, groups: Tensor) -> StepCounts:
        """Counts of a step whose rows are all here: mask [R], sequences [R] below N, groups [N]."""
        return cls(tokens=torch.bincount(sequences[mask.bool()], minlength=len(groups)), groups=groups)


def policy_loss(config: PolicyLoss, inputs: LossInputs, counts: StepCounts) -> tuple[Tensor, dict[str, float]]:
    """The loss, a scalar in float32 or better, and figures over the model's own tokens of these inputs.

    A token's weight is what its A * grad(log p) is multiplied by, both ratios and the mask included. Figures:
    `tokens`; `clip_share` whose ratio was limited, and `clip_share_positive` and `_negative` the same among all
    tokens by the sign of A; `dropped_share` without a gradient for that; `weight_mean`, `weight_max`, `weight_ess`
    the effective sample size over the tokens (1: all weigh the same); `entropy` where it is given; and `agreement`
    with the sampler, which tells numerical mismatch only before the first update and the policy's drift thereafter.
    Without a token of the model's own the loss is 0 and `tokens` is the only figure.
    """
    own = inputs.mask.bool()
    new = inputs.logprobs[own]
    new = new.to(torch.promote_types(new.dtype, torch.float32))
    old = inputs.old_logprobs[own].detach().to(new)
    sampler = old if inputs.rollout_logprobs is None else inputs.rollout_logprobs[own].detach().to(new)
    advantages = inputs.advantages[own].detach().to(new)
    shares = _shares(config, counts).to(new)[inputs.sequences[own]]
    ratio = (new - old).clamp(-_FAR, _FAR).exp()
    second = (old - sampler).clamp(-_FAR, _FAR).exp().clamp(max=config.rollout_weight_max)
    low, high = config.region
    outside = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    if config.algorithm in ("grpo", "dapo"):
        gains = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        limited = dropped = outside
        weights = ratio.detach() * ~dropped
    else:
        least, most = config.weights
        limited = (ratio < least) | (ratio > most)
        dropped = outside if config.token_mask == "ppo_region" else torch.zeros_like(outside)
        weights = ratio.detach().clamp(least, most) * ~dropped
        gains = weights * advantages * new
    loss = -(shares * second * gains).sum()
    entropy = None if inputs.entropy is None else inputs.entropy[own].to(new)
    figures = _figures(weights * second, advantages, limited, dropped, entropy)
    return loss, figures | agreement(new, sampler)


def _shares(config: PolicyLoss, counts: StepCounts) -> Tensor:
    """What one token of each sequence counts in the loss [N], in float64; inf for a sequence that has none."""
    tokens = counts.tokens.double()
    sequences = (tokens > 0).sum()
    if config.loss_norm == "batch_token":
        over = tokens.sum().expand_as(tokens)
    elif config.loss_norm == "sample":
        over = tokens * sequences
    elif config.loss_norm == "fixed_length":
        over = (sequences * config.max_length).double().expand_as(tokens)
    else:
        _, which = counts.groups.unique(return_inverse=True)
        per_group = _sums(tokens, which)
        over = per_group * len(which[tokens > 0].unique())
    return 1 / over


def _sums(values: Tensor, which: Tensor) -> Tensor:
    """For each entry the sum over its group; `which` counts groups from 0."""
    return torch.zeros_like(values).index_add_(0, which, values)[which]


def _figures(
    weights: Tensor, advantages: Tensor, limited: Tensor, dropped: Tensor, entropy: Tensor | None
) -> dict[str, float]:
    if not len(weights):
        return {"tokens": 0.0}
    figures = {
        "clip_share": limited.double().mean(),
        "clip_share_positive": (limited & (advantages > 0)).double().mean(),
        "clip_share_negative": (limited & (advantages < 0)).double().mean(),
        "dropped_share": dropped.double().mean(),
        "weight_mean": weights.double().mean(),
        "weight_max": weights.double().max(),
        "weight_ess": weights.double().mean().square() / weights.double().square().mean().clamp(min=1e-300),
    }
    if entropy is not None:
        figures["entropy"] = entropy.double().mean()
    # One copy from the device instead of one for each figure.
    return {"tokens": float(len(weights))} | dict(zip(figures, torch.stack([*figures.values()]).tolist(), strict=True))


@torch.no_grad()
def agreement(train_logprobs: Tensor, sampler_logprobs: Tensor) -> dict[str, float]:
    """How far trainer and sampler agree on the same tokens [R], in nats; no figures where R is 0.

    `dlogp_mean` and `dlogp_max` of |difference|; `kl_k1` and `kl_k3`, two estimates of KL(sampler || trainer) from
    the sampler's tokens, k1 unbiased and k3 never below 0 (J. Schulman, 2020); `pearson` of the probabilities, as in
    the M1 report's figure 3, left out where it is not defined: fewer than two tokens, or one probability for all.
    """
    assert train_logprobs.shape == sampler_logprobs.shape and train_logprobs.dim() == 1
    train, sampler = train_logprobs.double(), sampler_logprobs.double()
    if not len(train):
        return {}
    change = train - sampler
    ps, qs = (values.exp() - values.exp().mean() for values in (train, sampler))
    norm = ps.square().sum().sqrt() * qs.square().sum().sqrt()
    figures = {
        "dlogp_mean": change.abs().mean(),
        "dlogp_max": change.abs().max(),
        "kl_k1": -change.mean(),
        "kl_k3": (torch.expm1(change.clamp(max=_FAR)) - change.clamp(max=_FAR)).mean(),
        "pearson": (ps * qs).sum() / norm,
    }
    told = dict(zip(figures, torch.stack([*figures.values()]).tolist(), strict=True))
    if not norm > 1e-30:
        del told["pearson"]
    return told


def group_advantages(
    rewards: Tensor,
    groups: Tensor,
    *,
    baseline: Literal["mean", "leave_one_out"] = "mean",
    std: Literal["sample", "population", "none"] = "sample",
    epsilon: float = 0.0,
) -> Tensor:
    """(R - mean of the group) / std of the group, one for each of N sequences (Eq. 2).

    Groups may differ in size. One whose rewards are all the same, but for rounding, gets zeros exactly, and so does a
    group of one, so what is dropped in dynamic sampling are groups without any other value.

    Args:
        rewards: [N], finite.
        groups: [N] int64, any numbers.
        baseline: `leave_one_out` takes the mean of the others (RLOO); the std stays the whole group's.
        std: `sample` divides squares by n - 1, as TRL and verl do, since the report does not say; `none` does not
            scale (Dr. GRPO).
        epsilon: added to the std: 1e-4 in TRL, 1e-6 in verl, absent from the report.
    """
    assert rewards.dim() == 1 and rewards.shape == groups.shape and rewards.is_floating_point()
    assert torch.isfinite(rewards).all(), "the caller drops sequences without a reward"
    values = rewards.double()
    _, which = groups.unique(return_inverse=True)
    count = _sums(torch.ones_like(values), which)
    gains = values - _sums(values, which) / count
    squares = _sums(gains.square(), which)
    freedom = (count - 1).clamp(min=1)
    # Sums of several rewards in another order differ by rounding; dividing that by its own std would make it count.
    noise = 16 * torch.finfo(rewards.dtype).eps
    same = squares.sqrt() <= noise * _sums(values.square(), which).sqrt()
    if baseline == "leave_one_out":
        gains = gains * count / freedom
    if std != "none":
        gains = gains / ((squares / (freedom if std == "sample" else count)).sqrt() + epsilon)
    return torch.where(same, 0.0, gains).to(rewards.dtype)


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """A reward from 0 to -1 for an answer's length in tokens (DAPO, arXiv 2503.14476, Eq. 13).

    0 up to max_length - buffer, falling by a straight line to -1 at max_length, and -1 beyond. A buffer of 0 has no
    slope: 0 up to max_length. Raises DataError where the buffer is below 0 or above max_length.
    """
    assert length >= 0
    if not 0 <= buffer <= max_length:
        raise DataError(f"the buffer must be between 0 and max_length ({max_length}), got {buffer}")
    free = max_length - buffer
    if length <= free:
        return 0.0
    return (free - length) / buffer if length <= max_length else -1.0
