"""The policy loss against the report's equations and against what TRL and verl publish, in float64.

`trl_loss`, `verl_loss` and `report_loss` are those formulas written out plainly on padded [B, T] batches; ours
takes the same tokens packed. The fixed batch reaches every clip on both signs of the advantage.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minimax_m1.errors import DataError
from minimax_m1.train.rl.policy_loss import (
    LossInputs,
    PolicyLoss,
    StepCounts,
    agreement,
    group_advantages,
    overlong_penalty,
    policy_loss,
)

LENGTHS = (5, 9, 1, 12, 7, 3)  # two groups of three
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


class Batch:
    """Six sequences padded to [6, 12]: each fourth token of the longer ones is a tool's, masked."""

    def __init__(self, spread: float = 1.2) -> None:
        generator = torch.Generator().manual_seed(7)
        shape = len(LENGTHS), max(LENGTHS)
        self.old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.01
        self.new = self.old + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.new.requires_grad_()
        self.rollout = self.old + 0.6 * torch.randn(shape, generator=generator, dtype=torch.float64)
        places = torch.arange(shape[1])
        self.real = places[None] < torch.tensor(LENGTHS)[:, None]
        self.mask = self.real & ~((places % 4 == 3) & (torch.tensor(LENGTHS)[:, None] > 4))
        self.advantages = torch.tensor([1.0, -0.7, -0.3, 0.9, -1.1, 0.2], dtype=torch.float64)

    def packed(self, **changes: Any) -> LossInputs:
        sequences = torch.arange(len(LENGTHS))[:, None].expand_as(self.real)[self.real]
        fields: dict[str, Any] = {
            "logprobs": self.new[self.real],
            "old_logprobs": self.old[self.real],
            "advantages": self.advantages[sequences],
            "mask": self.mask[self.real],
            "sequences": sequences,
        }
        return LossInputs(**(fields | changes))

    def counts(self) -> StepCounts:
        return StepCounts.of(self.packed().mask, self.packed().sequences, GROUPS)

    def ours(self, config: PolicyLoss, **changes: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Loss, its gradient [6, 12] in the log-probs, figures."""
        loss, figures = policy_loss(config, self.packed(**changes), self.counts())
        return loss, torch.autograd.grad(loss, self.new)[0], figures

    def agrees(self, config: PolicyLoss, theirs: Tensor, **changes: Any) -> None:
        loss, grad, _ = self.ours(config, **changes)
        torch.testing.assert_close(loss, theirs, rtol=0, atol=1e-6)
        torch.testing.assert_close(grad, torch.autograd.grad(theirs, self.new)[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(loss, theirs, rtol=1e-12, atol=1e-12)  # in float64 they are the same numbers
        assert grad.abs().max() > 1e-3


def report_loss(b: Batch, *, cap: float, floor: float = 0.0, clip: tuple[float, float] | None = None) -> Tensor:
    """M1 report, Eq. 4 and 5, with Eq. 6 and 7 where `clip` is given, term by term; the mean over prompts is E_q."""
    objective = torch.zeros((), dtype=torch.float64)
    for group in (0, 1):
        members = [i for i in range(len(LENGTHS)) if GROUPS[i] == group]
        tokens = [(i, t) for i in members for t in range(LENGTHS[i]) if b.mask[i, t]]
        total = torch.zeros((), dtype=torch.float64)
        for i, t in tokens:
            r, a = math.exp(b.new[i, t].item() - b.old[i, t].item()), b.advantages[i].item()
            keep = 1.0
            if clip is not None and ((a > 0 and r > 1 + clip[1]) or (a < 0 and r < 1 - clip[0])):
                keep = 0.0
            total = total + max(floor, min(r, cap)) * a * b.new[i, t] * keep
        objective = objective + total / len(tokens) / 2
    return -objective


def trl_loss(
    b: Batch, loss_type: str, *, low: float = 0.2, high: float = 0.2, second: Tensor | None = None
) -> tuple[Tensor, float]:
    """TRL 1.16, trl/trainer/grpo_trainer.py, `GRPOTrainer._compute_loss`: loss and the share that it reports clipped.

    One optimizer step of one micro-batch, so num_items_in_batch is the mask's sum and no accumulation divides.
    `second` is its importance_sampling_ratio [B, T] of trainer over sampler.
    """
    mask, advantages = b.mask.double(), b.advantages.unsqueeze(1)
    coef_1 = torch.exp(b.new - b.old)
    if loss_type == "cispo":
        per_token = -torch.clamp(coef_1, max=high).detach() * advantages * b.new
        clipped = (coef_1 > high) & (advantages > 0)
    else:
        coef_2 = torch.clamp(coef_1, 1 - low, 1 + high)
        per_token = -torch.min(coef_1 * advantages, coef_2 * advantages)
        clipped = ((coef_1 < 1 - low) & (advantages < 0)) | ((coef_1 > 1 + high) & (advantages > 0))
    if second is not None:
        per_token = per_token * second
    if loss_type == "grpo":
        loss = ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    elif loss_type == "dr_grpo":
        loss = (per_token * mask).sum() / (per_token.size(0) * 64)
    else:  # cispo and dapo
        loss = (per_token * mask).sum() / mask.sum()
    return loss, ((clipped * mask).sum() / mask.sum()).item()


def verl_loss(b: Batch, kind: str, *, low: float, high: float, mode: str, second: Tensor | None = None) -> Tensor:
    """verl, verl/trainer/ppo/core_algos.py: `compute_policy_loss_cispo`, `compute_policy_loss_vanilla` and `agg_loss`.

    The vanilla loss without its dual clip, which bounds min(r A, clip(r) A) from below and is in none of the papers.
    """
    mask = b.mask.double()
    advantages = b.advantages.unsqueeze(1).expand_as(mask)
    ratio = torch.exp(torch.clamp(b.new - b.old, min=-20.0, max=20.0))
    clipped = torch.clamp(ratio, 1 - low, 1 + high)
    if kind == "cispo":
        losses = -clipped.detach() * advantages * b.new
    else:
        losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if second is not None:
        losses = losses * second
    if mode == "token-mean":
        return (losses * mask).sum() / mask.sum()
    assert mode == "seq-mean-token-mean"
    return ((losses * mask).sum(-1) / (mask.sum(-1) + 1e-8)).mean()


# The report.


def test_the_default_is_equation_4_to_the_letter() -> None:
    b = Batch()
    assert PolicyLoss() == PolicyLoss(algorithm="cispo", token_mask="none", loss_norm="group_token")
    assert PolicyLoss().weights == (0.0, 5.0)
    b.agrees(PolicyLoss(), report_loss(b, cap=5.0))
    b.agrees(PolicyLoss(eps_high=0.5, is_weight_min=0.4), report_loss(b, cap=1.5, floor=0.4))


def test_equation_3_weighs_without_a_limit() -> None:
    b = Batch()
    b.agrees(PolicyLoss(algorithm="reinforce"), report_loss(b, cap=math.inf))


def test_equation_6_drops_tokens_that_leave_the_trust_region() -> None:
    b = Batch()
    masked = PolicyLoss(is_weight_max=2.0, token_mask="ppo_region", clip_low=0.1, clip_high=0.3)
    b.agrees(masked, report_loss(b, cap=2.0, clip=(0.1, 0.3)))
    _, grad, figures = b.ours(masked)
    own = grad[b.mask]
    assert (own == 0).double().mean().item() == pytest.approx(figures["dropped_share"]) and figures["dropped_share"] > 0


def test_with_the_mask_and_no_cap_the_gradient_is_that_of_grpo() -> None:
    b = Batch()
    for algorithm, high in (("grpo", 0.2), ("dapo", 0.28)):
        clipped = PolicyLoss(algorithm=algorithm)
        masked = PolicyLoss(algorithm="reinforce", token_mask="ppo_region", clip_high=high)
        assert clipped.region == masked.region == (0.8, 1 + high)
        (loss, grad, figures), (other, same, others) = b.ours(clipped), b.ours(masked)
        torch.testing.assert_close(grad, same, rtol=0, atol=1e-12)
        assert loss != other and figures["clip_share"] == others["dropped_share"] > 0
        assert figures["weight_mean"] == others["weight_mean"]


def test_cispo_leaves_every_token_a_gradient_where_grpo_drops_many() -> None:
    b = Batch()
    _, cispo, _ = b.ours(PolicyLoss())
    _, grpo, _ = b.ours(PolicyLoss(algorithm="grpo"))
    assert (cispo[b.mask] != 0).all() and (grpo[b.mask] == 0).double().mean() > 0.2
    assert (cispo[~b.mask] == 0).all() and (grpo[~b.mask] == 0).all()


@pytest.mark.parametrize("norm", ["group_token", "batch_token", "sample", "fixed_length"])
def test_on_the_samplers_own_policy_all_four_have_one_gradient(norm: Any) -> None:
    b = Batch(spread=0.0)
    found = []
    for algorithm in ("cispo", "reinforce", "grpo", "dapo"):
        config = PolicyLoss(algorithm=algorithm, loss_norm=norm, max_length=64 * (norm == "fixed_length"))
        _, grad, figures = b.ours(config)
        found.append(grad)
        assert figures["weight_max"] == figures["weight_ess"] == 1 and figures["clip_share"] == 0
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0, atol=1e-15)
    plain = -(b.advantages[:, None] * b.new)[b.mask].sum()  # of plain REINFORCE
    ratio = found[0][b.mask] / torch.autograd.grad(plain, b.new)[0][b.mask]
    assert ratio.min() > 0
    if norm == "batch_token":
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / b.mask.sum().item()))


# What others publish.


def test_cispo_is_trls_under_its_conventions() -> None:
    b = Batch()
    config = PolicyLoss(is_weight_max=5.0, loss_norm="batch_token")
    loss, share = trl_loss(b, "cispo", high=5.0)
    b.agrees(config, loss)
    assert b.ours(config)[2]["clip_share_positive"] == pytest.approx(share) and share > 0


def test_cispo_is_verls_under_its_conventions() -> None:
    b = Batch()
    for low, high in ((1.0, 4.0), (10.0, 0.2), (0.2, 0.2)):  # slime's advice, verl's example, verl's default
        config = PolicyLoss(eps_high=high, is_weight_min=max(0.0, 1 - low), loss_norm="batch_token")
        b.agrees(config, verl_loss(b, "cispo", low=low, high=high, mode="token-mean"))


def test_grpo_and_dapo_are_those_of_trl_and_verl() -> None:
    b = Batch()
    grpo = PolicyLoss(algorithm="grpo", loss_norm="sample")
    loss, share = trl_loss(b, "grpo")
    b.agrees(grpo, loss)
    assert b.ours(grpo)[2]["clip_share"] == pytest.approx(share) and share > 0
    theirs = verl_loss(b, "vanilla", low=0.2, high=0.2, mode="seq-mean-token-mean")
    torch.testing.assert_close(b.ours(grpo)[0], theirs, rtol=0, atol=1e-6)  # verl adds 1e-8 to the token count
    dapo = PolicyLoss(algorithm="dapo", loss_norm="batch_token")
    b.agrees(dapo, trl_loss(b, "dapo", high=0.28)[0])
    b.agrees(dapo, verl_loss(b, "vanilla", low=0.2, high=0.28, mode="token-mean"))
    doctor = PolicyLoss(algorithm="grpo", loss_norm="fixed_length", max_length=64)
    b.agrees(doctor, trl_loss(b, "dr_grpo")[0])


# The eight things on which the ports of CISPO disagree.


def test_1_the_cap_is_absolute_and_the_reports_spelling_adds_one() -> None:
    assert PolicyLoss(is_weight_max=6.0).weights == PolicyLoss(eps_high=5.0).weights == (0.0, 6.0)
    assert PolicyLoss(eps_high=0).weights == (0.0, 1.0)
    with pytest.raises(DataError, match=r"not both; got 6\.0 and 5\.0"):
        PolicyLoss(is_weight_max=6.0, eps_high=5.0)
    with pytest.raises(DataError, match="not both"):
        replace(PolicyLoss(is_weight_max=6.0), eps_high=5.0)


def test_2_a_cap_that_would_shrink_every_token_is_refused() -> None:
    """TRL's epsilon_high falls back to 0.2: each token then weighs 0.2 though nothing has changed."""
    b = Batch(spread=0.0)
    theirs, _ = trl_loss(b, "cispo", high=0.2)
    loss, _, _ = b.ours(PolicyLoss(loss_norm="batch_token"))
    assert (theirs / loss).item() == pytest.approx(0.2)
    with pytest.raises(DataError, match=r"absolute and must be at least 1.*got 0\.2"):
        PolicyLoss(is_weight_max=0.2)


def test_3_tokens_are_divided_by_group_batch_sample_or_length() -> None:
    b = Batch(spread=0.0)
    own = b.mask.sum(-1).tolist()
    assert own == [4, 7, 1, 9, 6, 3]
    expected = {
        "group_token": [1 / 2 / 12] * 3 + [1 / 2 / 18] * 3,
        "batch_token": [1 / 30] * 6,
        "sample": [1 / 6 / n for n in own],
        "fixed_length": [1 / 6 / 64] * 6,
    }
    for norm, each in expected.items():
        config = PolicyLoss(loss_norm=norm, max_length=64 * (norm == "fixed_length"))
        _, grad, _ = b.ours(config)
        shares = -grad / b.advantages[:, None]
        for i, share in enumerate(each):
            torch.testing.assert_close(shares[i][b.mask[i]], torch.full((own[i],), share, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["group_token", "batch_token", "sample", "fixed_length"])
def test_4_micro_batches_sum_up_to_the_step_and_many_steps_do_not_shrink_it(norm: Any) -> None:
    b = Batch()
    config = PolicyLoss(loss_norm=norm, max_length=64 * (norm == "fixed_length"))
    whole, grad, _ = b.ours(config)
    rows, counts = b.packed(), b.counts()
    total = torch.zeros((), dtype=torch.float64)
    for cut in (slice(0, 4), slice(4, 20), slice(20, None)):  # cuts through sequences and groups
        part = LossInputs(
            logprobs=rows.logprobs[cut],
            old_logprobs=rows.old_logprobs[cut],
            advantages=rows.advantages[cut],
            mask=rows.mask[cut],
            sequences=rows.sequences[cut],
        )
        total = total + policy_loss(config, part, counts)[0]
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(total, b.new)[0], grad, rtol=1e-12, atol=1e-12)
    # One generation of 16 such batches, a step for each: dividing by the generation's tokens made steps 16x too
    # small (TRL issue 5619). Ours counts its own step's, so a step is as large as it was.
    generation = StepCounts(
        tokens=counts.tokens.repeat(16), groups=torch.cat([counts.groups + 2 * n for n in range(16)])
    )
    shrunk, _ = policy_loss(config, rows, generation)
    assert (whole / shrunk).item() == pytest.approx(16)


def test_5_there_is_no_floor_unless_asked_for() -> None:
    b = Batch(spread=0.0)
    left = (b.old - 8).requires_grad_()  # tokens that the policy has all but left
    b.new = left
    _, free, figures = b.ours(PolicyLoss())
    _, floored, _ = b.ours(PolicyLoss(is_weight_min=0.8))
    own = b.mask
    torch.testing.assert_close((free / floored)[own], torch.full((30,), math.exp(-8) / 0.8, dtype=torch.float64))
    assert figures["clip_share"] == 0 and b.ours(PolicyLoss(is_weight_min=0.8))[2]["clip_share"] == 1


def test_6_figures_tell_clipping_on_both_signs_and_how_weights_are_spread() -> None:
    ratio = torch.tensor([1.0, 8.0, 8.0, 2.0, 9.0], dtype=torch.float64)
    old = torch.full((5,), -4.0, dtype=torch.float64)
    inputs = LossInputs(
        logprobs=(old + ratio.log()).requires_grad_(),
        old_logprobs=old,
        advantages=torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0], dtype=torch.float64),
        mask=torch.ones(5),
        sequences=torch.arange(5),
        entropy=torch.arange(5.0),
    )
    _, figures = policy_loss(
        PolicyLoss(), inputs, StepCounts(tokens=torch.ones(5).long(), groups=torch.zeros(5).long())
    )
    assert figures["tokens"] == 5 and figures["entropy"] == 2
    assert figures["clip_share"] == pytest.approx(0.6)
    assert figures["clip_share_positive"] == figures["clip_share_negative"] == pytest.approx(0.2)
    assert figures["dropped_share"] == 0
    assert figures["weight_mean"] == pytest.approx(18 / 5) and figures["weight_max"] == pytest.approx(5)
    assert figures["weight_ess"] == pytest.approx(18**2 / 5 / (1 + 25 + 25 + 4 + 25))
    assert figures["dlogp_max"] == pytest.approx(math.log(9))


def test_7_one_ratio_to_the_sampler_by_default_and_two_on_request() -> None:
    b = Batch()
    bypass = PolicyLoss(loss_norm="batch_token", rollout_weight_max=3.0)
    second = torch.exp(b.old - b.rollout).clamp(max=3.0)
    both = {"rollout_logprobs": b.rollout[b.real]}
    b.agrees(bypass, trl_loss(b, "cispo", high=5.0, second=second)[0], **both)
    b.agrees(
        replace(bypass, algorithm="dapo"),
        verl_loss(b, "vanilla", low=0.2, high=0.28, mode="token-mean", second=second),
        **both,
    )
    # Where trainer and sampler agree the second weight is 1; else the bound is a product.
    assert b.ours(bypass, rollout_logprobs=b.old[b.real])[0] == b.ours(bypass)[0]
    b.new = (b.old + 3).requires_grad_()
    figures = b.ours(bypass, rollout_logprobs=(b.old - 3)[b.real])[2]
    assert figures["weight_max"] == pytest.approx(15) and figures["dlogp_mean"] == pytest.approx(6)
    assert b.ours(bypass, old_logprobs=(b.old - 3)[b.real])[2]["weight_max"] == pytest.approx(5)


def test_8_the_mask_is_off_by_default_and_belongs_to_losses_without_a_clip() -> None:
    b = Batch()
    assert b.ours(PolicyLoss())[2]["dropped_share"] == 0
    assert PolicyLoss(token_mask="ppo_region").region == (0.8, 1.2)
    with pytest.raises(DataError, match="grpo has its own trust region"):
        PolicyLoss(algorithm="grpo", token_mask="ppo_region")


# Configurations.


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"algorithm": "ppo"}, "algorithm must be one of cispo, reinforce, grpo, dapo, got 'ppo'"),
        ({"loss_norm": "token"}, "loss_norm must be one of group_token"),
        ({"token_mask": "grpo"}, "token_mask must be one of none, ppo_region"),
        ({"eps_high": -0.1}, "eps_high must be at least 0, got -0.1"),
        ({"is_weight_max": math.nan}, "is_weight_max is absolute"),
        ({"is_weight_min": 1.5}, "is_weight_min must be between 0 and 1, got 1.5"),
        ({"algorithm": "dapo", "is_weight_max": 5.0}, "are cispo's, and the algorithm is dapo"),
        ({"algorithm": "reinforce", "eps_high": 5.0}, "are cispo's, and the algorithm is reinforce"),
        ({"algorithm": "grpo", "is_weight_min": 0.5}, "are cispo's, and the algorithm is grpo"),
        ({"clip_high": 0.28}, "cispo reads clip_low and clip_high only with token_mask ppo_region"),
        ({"algorithm": "grpo", "clip_low": 1.5}, "clip_low must be between 0 and 1"),
        ({"algorithm": "grpo", "clip_high": -0.1}, "clip_high at least 0"),
        ({"loss_norm": "fixed_length"}, "fixed_length needs max_length above 0"),
        ({"max_length": 64}, "no other loss_norm reads it, got loss_norm group_token and max_length 64"),
        ({"rollout_weight_max": 0.5}, "rollout_weight_max must be at least 1, got 0.5"),
    ],
)
def test_a_setting_out_of_range_or_unread_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says.replace("(", r"\(")):
        PolicyLoss(**fields)


# Tokens that are not the model's own.


def test_what_is_masked_counts_nowhere_whatever_it_holds() -> None:
    b = Batch()
    loss, grad, figures = b.ours(PolicyLoss())
    rows = b.packed()
    junk = torch.where(rows.mask, rows.old_logprobs, math.nan)
    other, same, others = b.ours(
        PolicyLoss(), old_logprobs=junk, advantages=torch.where(rows.mask, rows.advantages, math.inf)
    )
    assert loss == other and torch.equal(grad, same) and figures == others


def test_without_a_token_of_its_own_the_loss_is_zero_and_has_a_gradient() -> None:
    b = Batch()
    b.mask = torch.zeros_like(b.mask)
    for algorithm in ("cispo", "grpo"):
        loss, grad, figures = b.ours(PolicyLoss(algorithm=algorithm))
        assert loss == 0 and (grad == 0).all() and figures == {"tokens": 0.0}


def test_sequences_without_a_token_of_their_own_are_no_part_of_the_mean() -> None:
    b = Batch()
    b.mask[3:] = False
    for norm, share in (("sample", 1 / 3 / 7), ("group_token", 1 / 12)):
        _, grad, _ = b.ours(PolicyLoss(algorithm="reinforce", loss_norm=norm))
        weight = torch.exp(b.new - b.old).detach()[1, 0].item()
        assert grad[1, 0].item() == pytest.approx(-share * weight * -0.7)


def test_half_precision_is_worked_out_in_float32_and_far_ratios_stay_finite() -> None:
    new = torch.tensor([-0.1, -200.0, -1.0], dtype=torch.bfloat16, requires_grad=True)
    inputs = LossInputs(
        logprobs=new,
        old_logprobs=torch.tensor([-150.0, -0.1, -1.0]),
        advantages=torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64),
        mask=torch.ones(3),
        sequences=torch.zeros(3).long(),
    )
    counts = StepCounts(tokens=torch.tensor([3]), groups=torch.tensor([0]))
    for algorithm in ("cispo", "reinforce", "grpo", "dapo"):
        loss, figures = policy_loss(PolicyLoss(algorithm=algorithm), inputs, counts)
        assert loss.dtype == torch.float32 and loss.isfinite() and all(map(math.isfinite, figures.values()))
        assert torch.autograd.grad(loss, new)[0].isfinite().all()


# Properties.

FEW = settings(max_examples=30)  # each of them runs several losses
TOKEN = st.tuples(st.floats(-8, -0.001), st.floats(-4, 4), st.floats(-3, 3), st.booleans(), st.integers(0, 3))


def rows(tokens: list[tuple[float, float, float, bool, int]]) -> tuple[LossInputs, StepCounts]:
    old, change, advantages, mask, sequences = (torch.tensor(column) for column in zip(*tokens, strict=True))
    inputs = LossInputs(
        logprobs=(old.double() + change.double()).requires_grad_(),
        old_logprobs=old.double(),
        advantages=advantages.double(),
        mask=mask,
        sequences=sequences,
    )
    return inputs, StepCounts.of(mask, sequences, torch.tensor([5, 5, -2, -2]))


def gradient(config: PolicyLoss, inputs: LossInputs, counts: StepCounts) -> Tensor:
    return torch.autograd.grad(policy_loss(config, inputs, counts)[0], inputs.logprobs)[0]


@FEW
@given(st.lists(TOKEN, min_size=1, max_size=12), st.floats(1, 20))
def test_each_gradient_is_the_share_times_the_capped_ratio_times_the_advantage(tokens: Any, cap: float) -> None:
    inputs, counts = rows(tokens)
    grad = gradient(PolicyLoss(is_weight_max=cap, loss_norm="batch_token"), inputs, counts)
    ratio = (inputs.logprobs - inputs.old_logprobs).detach().exp()
    own = inputs.mask.double() / max(1, int(inputs.mask.sum()))
    torch.testing.assert_close(grad, -own * ratio.clamp(max=cap) * inputs.advantages, rtol=1e-9, atol=1e-12)


@FEW
@given(st.lists(TOKEN, min_size=1, max_size=12))
def test_cispo_is_reinforce_while_no_ratio_passes_the_cap(tokens: Any) -> None:
    inputs, counts = rows(tokens)
    one, other = PolicyLoss(is_weight_max=math.exp(4.1)), PolicyLoss(algorithm="reinforce")
    assert torch.equal(gradient(one, inputs, counts), gradient(other, inputs, counts))


@FEW
@given(st.lists(TOKEN, min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 2))
def test_the_mask_alone_makes_grpo_of_reinforce(tokens: Any, low: float, high: float) -> None:
    inputs, counts = rows(tokens)
    clips = {"clip_low": low, "clip_high": high}
    one = gradient(PolicyLoss(algorithm="grpo", **clips), inputs, counts)
    other = gradient(PolicyLoss(algorithm="reinforce", token_mask="ppo_region", **clips), inputs, counts)
    ratio = (inputs.logprobs - inputs.old_logprobs).detach().exp()
    edge = ((ratio - (1 - low)).abs() < 1e-9) | ((ratio - (1 + high)).abs() < 1e-9)  # a tie has two gradients
    torch.testing.assert_close(one[~edge], other[~edge], rtol=1e-9, atol=1e-12)


@FEW
@given(st.lists(TOKEN, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(tokens: Any, rng: Any) -> None:
    mixed = rng.sample(tokens, len(tokens))
    for norm in ("group_token", "batch_token", "sample"):
        (one, told), (other, same) = (policy_loss(PolicyLoss(loss_norm=norm), *rows(t)) for t in (tokens, mixed))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert told == pytest.approx(same, rel=1e-6, abs=1e-9) and 0 <= told.get("weight_ess", 0) <= 1 + 1e-9


@FEW
@given(st.lists(TOKEN, min_size=1, max_size=12))
def test_the_shares_of_a_steps_tokens_sum_to_one(tokens: Any) -> None:
    inputs, counts = rows([(old, 0.0, 1.0, mask, sequence) for old, _, _, mask, sequence in tokens])
    for norm in ("group_token", "batch_token", "sample"):
        total = -gradient(PolicyLoss(loss_norm=norm), inputs, counts).sum().item()
        assert total == pytest.approx(float(bool(inputs.mask.any())))


# Advantages.


def test_advantages_are_those_of_trl_and_verl_but_for_their_epsilons() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 1.0], dtype=torch.float64)
    grouped = rewards.view(2, 3)
    plain = (grouped - grouped.mean(1, keepdim=True)) / grouped.std(1, keepdim=True)
    torch.testing.assert_close(group_advantages(rewards, GROUPS), plain.flatten())
    for epsilon in (1e-4, 1e-6):  # TRL: `std + 1e-4`; verl, compute_grpo_outcome_advantage: `std + epsilon`
        theirs = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + epsilon)
        torch.testing.assert_close(group_advantages(rewards, GROUPS, epsilon=epsilon), theirs.flatten())
    whole = (grouped - grouped.mean(1, keepdim=True)) / grouped.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(group_advantages(rewards, GROUPS, std="population"), whole.flatten())
    unscaled = group_advantages(rewards, GROUPS, std="none")
    torch.testing.assert_close(unscaled, (grouped - grouped.mean(1, keepdim=True)).flatten())


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    rewards = torch.tensor([3.0, 0.0, 1.0, 5.0, 7.0])
    found = group_advantages(rewards, torch.tensor([9, 9, 9, 4, 4]), baseline="leave_one_out", std="none")
    torch.testing.assert_close(found, torch.tensor([2.5, -2.0, -0.5, -2.0, 2.0]))


def test_groups_that_tell_nothing_get_zeros_exactly() -> None:
    rewards = [0.1 + 0.2, 0.3, 0.3, 7.0, 0.0, 0.0, 1.0, 0.0]  # the same but for rounding; alone; all 0
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])
    for dtype in (torch.float64, torch.float32):
        for baseline in ("mean", "leave_one_out"):
            found = group_advantages(torch.tensor(rewards, dtype=dtype), groups, baseline=baseline)
            assert (found[:6] == 0).all() and found[6] > 0 > found[7] and found.dtype == dtype


def test_small_differences_of_reward_are_no_rounding() -> None:
    found = group_advantages(torch.tensor([1.0, 1.0001]), torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]) / 2**0.5, rtol=1e-3, atol=0)


@FEW
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 3)), min_size=1, max_size=20), st.integers(-3, 3))
def test_advantages_are_centred_scaled_and_keep_the_order_of_rewards(drawn: Any, shift: int) -> None:
    rewards, groups = (torch.tensor(column) for column in zip(*drawn, strict=True))
    found = group_advantages(rewards.double() / 4, groups)
    torch.testing.assert_close(group_advantages(rewards.double() * 3 + shift, groups), found, rtol=1e-9, atol=1e-9)
    for group in groups.unique():
        mine, values = found[groups == group], rewards[groups == group]
        assert abs(mine.sum().item()) < 1e-9
        if len(values.unique()) == 1:
            assert (mine == 0).all()
        else:
            assert mine.std().item() == pytest.approx(1)
            assert torch.equal(mine[values.argsort(stable=True)], mine.sort().values)


# Agreement and length.


def test_agreement_of_one_sampler_and_trainer_is_perfect_and_pearson_is_numpys() -> None:
    sampler = -torch.rand(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4
    told = agreement(sampler, sampler)
    assert told.pop("pearson") == pytest.approx(1) and set(told.values()) == {0.0}
    train = sampler + 0.1 * torch.sin(torch.arange(50.0, dtype=torch.float64))
    told = agreement(train, sampler)
    assert told["pearson"] == pytest.approx(torch.corrcoef(torch.stack([train.exp(), sampler.exp()]))[0, 1].item())
    assert 0.9 < told["pearson"] < 0.999
    assert told["dlogp_mean"] == pytest.approx((train - sampler).abs().mean().item())
    assert told["dlogp_max"] == pytest.approx((train - sampler).abs().max().item())


def test_kl_estimates_are_right_over_all_tokens_of_a_distribution() -> None:
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)  # the sampler
    p = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    tokens = torch.tensor([0, 0, 1, 2])  # as often as the sampler draws them
    told = agreement(p.log()[tokens], q.log()[tokens])
    kl = (q * (q / p).log()).sum().item()
    assert told["kl_k1"] == pytest.approx(kl) and told["kl_k3"] == pytest.approx(kl)
    assert agreement(q.log(), p.log())["kl_k3"] >= 0


def test_pearson_is_left_out_where_it_is_not_defined() -> None:
    assert agreement(torch.zeros(0), torch.zeros(0)) == {}
    for logprobs in ([-1.0], [-1.0, -1.0, -1.0]):
        told = agreement(torch.tensor(logprobs), torch.tensor(logprobs))
        assert "pearson" not in told and told["dlogp_max"] == 0


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (101, -1.0), (9999, -1.0)]
)
def test_the_length_penalty_is_dapos(length: int, penalty: float) -> None:
    assert overlong_penalty(length, 100, 20) == pytest.approx(penalty)


@FEW
@given(st.integers(0, 300), st.integers(0, 200))
def test_longer_answers_are_never_punished_less(max_length: int, buffer: int) -> None:
    if buffer > max_length:
        with pytest.raises(DataError, match=f"must be between 0 and max_length .{max_length}., got {buffer}"):
            overlong_penalty(0, max_length, buffer)
        return
    found = [overlong_penalty(length, max_length, buffer) for length in range(max_length + 3)]
    assert all(-1 <= later <= earlier <= 0 for earlier, later in pairwise(found))
    assert found[max_length - buffer] == 0 and found[max_length + 1] == -1
    slopes = [later - earlier for earlier, later in pairwise(found[max_length - buffer : max_length + 1])]
    assert all(slope == pytest.approx(-1 / buffer) for slope in slopes)
