"""An update: scores as of each sequence alone, gradients by hand, passes that add up, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import DataError
from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.lora import adapters, add_lora
from minimax_m1.train.optimizer import adamw
from minimax_m1.train.rl.policy_loss import Algorithm, LossNorm, PolicyLoss
from minimax_m1.train.rl.rollout import RolloutBatch
from minimax_m1.train.rl.update import score, update

PATTERNS: dict[str, MiniMaxM1Config] = {
    "softmax last": tiny(),
    "softmax first": tiny().replace(attn_type_list=(1, 0, 0, 0)),
    "seven to one": tiny().replace(num_hidden_layers=8, attn_type_list=(0,) * 7 + (1,)),
    "lightning only": tiny().replace(attn_type_list=(0, 0, 0, 0)),
    "softmax only": tiny().replace(attn_type_list=(1, 1, 1, 1)),
    "pre-norm, tied, shared expert, long texts": tiny().replace(
        postnorm=False,
        tie_word_embeddings=True,
        shared_intermediate_size=24,
        softmax_log_n=4,
        attn_type_list=(1, 0, 1, 0),
    ),
}
ASKED = [5, 9, 2, 40, 7, 7, 13]
# A prompt, its group, and what follows: (True, tokens) of the model's own, (False, tokens) of a tool.
AWKWARD = [
    (ASKED, 4, [(True, 5)]),
    (ASKED, 4, [(True, 3), (False, 4), (True, 2)]),
    ([3], 0, [(True, 4)]),  # a prompt of one token has nothing that could be read beforehand
    (ASKED, 4, [(True, 1)]),
    ([3], 0, [(True, 2), (False, 1), (True, 1), (False, 3)]),  # a tool has the last word
    (ASKED, 2, [(True, 2)]),  # the same prompt in another group
    (ASKED[:4], 7, [(True, 6)]),  # a prompt that begins another
    ([60, 61], 7, [(True, 3)]),
]


def rollouts(spec: Sequence[tuple[list[int], int, list[tuple[bool, int]]]] = AWKWARD, seed: int = 0) -> RolloutBatch:
    """Made-up answers with made-up log-probs and advantages, in float64."""
    generator = torch.Generator().manual_seed(seed)
    ids, own, lengths = [], [], []
    for prompt, _, parts in spec:
        said = [mine for mine, count in parts for _ in range(count)]
        ids += [*prompt, *torch.randint(64, (len(said),), generator=generator).tolist()]
        own += [False] * len(prompt) + said
        lengths.append(len(prompt) + len(said))
    logprobs = -4 + torch.randn(len(ids), generator=generator, dtype=torch.float64) / 4
    return RolloutBatch(
        ids=torch.tensor(ids),
        own=torch.tensor(own),
        logprobs=logprobs * torch.tensor(own),
        lengths=torch.tensor(lengths),
        groups=torch.tensor([group for _, group, _ in spec]),
        advantages=torch.randn(len(spec), generator=generator, dtype=torch.float64),
    )


def made(config: MiniMaxM1Config | None = None, *, balanced: bool = False) -> MiniMaxM1ForCausalLM:
    """A random model in float64; without the balance loss unless `balanced`."""
    config = config or tiny()
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(config if balanced else config.replace(router_aux_loss_coef=0.0)).double()


def alone(model: MiniMaxM1ForCausalLM, batch: RolloutBatch) -> Tensor:
    """The log-probs of own tokens, each sequence read whole and by itself."""
    told = []
    for ids, own in zip(batch.ids.split(batch.lengths.tolist()), batch.own.split(batch.lengths.tolist()), strict=True):
        state = model.empty_state(1)
        logits = model.run(Batch.of([ids.tolist()], state), state, logits="all").logits
        assert logits is not None
        told.append(logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0][own[1:]])
    return torch.cat(told)


def gradients(model: MiniMaxM1ForCausalLM) -> dict[str, Tensor]:
    told = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return told


def steps(
    model: MiniMaxM1ForCausalLM, batch: RolloutBatch, loss: PolicyLoss, batch_tokens: int = 10_000, clip: float = 1e30
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient that an update takes, seen by plain descent at rate 1 from where the model was; and its figures."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    descent = torch.optim.SGD(trained, lr=123.0)
    figures = update(model, descent, batch, loss, rate=1.0, clip_norm=clip, batch_tokens=batch_tokens)
    assert all(p.grad is None for p in model.parameters())
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    return moved, figures


def close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-12) -> None:
    for name, mine in found.items():
        torch.testing.assert_close(mine, expected.get(name, torch.zeros_like(mine)), rtol=1e-9, atol=atol)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_score_is_that_of_each_sequence_whole_and_alone(pattern: str, recompute: bool) -> None:
    model, batch = made(PATTERNS[pattern]), rollouts()
    expected = alone(model, batch)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected * weights).sum().backward()
    by_hand = gradients(model)
    scores, places, _ = score(model, batch, recompute=recompute)
    assert torch.equal(places, batch.own.nonzero()[:, 0])
    torch.testing.assert_close(scores.logprob, expected, rtol=1e-11, atol=1e-12)
    (scores.logprob * weights).sum().backward()
    found = gradients(model)
    assert found.keys() == by_hand.keys() and "model.embed_tokens.weight" in found
    close(found, by_hand)
    with torch.no_grad():
        quiet, _, _ = score(model, batch)
    torch.testing.assert_close(quiet.logprob, expected.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        [([3], 0, [(True, 4)]), ([3], 0, [(True, 1)]), ([8], 1, [(True, 2), (False, 2), (True, 1)])],
        [(ASKED, 0, [(True, 1)])],
        [([1, 2], 0, [(True, 1)]), ([1, 2], 0, [(True, 1)])],
    ],
    ids=["prompts of one token", "one answer of one token", "two of one"],
)
@pytest.mark.parametrize("pattern", ["softmax last", "softmax only", "lightning only"])
def test_the_smallest_batches_score_as_the_sequences_alone(
    pattern: str, spec: list[tuple[list[int], int, list[tuple[bool, int]]]]
) -> None:
    model, batch = made(PATTERNS[pattern]), rollouts(spec)
    expected = alone(model, batch)
    expected.sum().backward()
    by_hand = gradients(model)
    scores, _, routing = score(model, batch)
    torch.testing.assert_close(scores.logprob, expected, rtol=1e-11, atol=1e-12)
    (scores.logprob.sum() + 0 * balance_loss(routing)).backward()
    close(gradients(model), by_hand)


def test_an_answer_s_score_does_not_depend_on_its_neighbours() -> None:
    model, batch = made(), rollouts()
    whole, _, _ = score(model, batch)
    tokens = [int(own.sum()) for own in batch.own.split(batch.lengths.tolist())]
    for number, logprob in enumerate(whole.logprob.split(tokens)):
        single, _, _ = score(model, batch.at([number]))
        torch.testing.assert_close(single.logprob, logprob, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss_norm", ["group_token", "batch_token", "sample"])
@pytest.mark.parametrize("batch_tokens", [12, 30], ids=["a pass each", "several"])
def test_passes_add_up_to_one(loss_norm: LossNorm, batch_tokens: int) -> None:
    model, batch = made(), rollouts()
    loss = PolicyLoss(loss_norm=loss_norm, is_weight_max=1.1)
    assert len(list(batch.passes(batch_tokens))) > 2
    whole, figures = steps(model, batch, loss)
    parts, told = steps(model, batch, loss, batch_tokens)
    close(parts, whole)
    assert told.keys() == figures.keys()
    for name in (
        "tokens",
        "policy_loss",
        "grad_norm",
        "clip_share",
        "weight_mean",
        "weight_max",
        "dlogp_mean",
        "kl_k3",
    ):
        assert told[name] == pytest.approx(figures[name], rel=1e-9), name
    assert told["tokens"] == int(batch.own.sum())
    assert 0 < figures["clip_share"] < 1


def test_what_went_through_the_model_counts_a_prompt_once_a_pass() -> None:
    model, batch = made(), rollouts()
    prompts = {tuple(ASKED): 7, (3,): 1, tuple(ASKED[:4]): 4, (60, 61): 2}
    total = int(batch.lengths.sum())
    shared = sum(count * (len(prompt) - 1) for prompt, count in zip(prompts, (4, 2, 1, 1), strict=True))
    once = sum(len(prompt) - 1 for prompt in prompts)
    _, figures = steps(model, batch, PolicyLoss())
    assert figures["trained_tokens"] == total - shared + once
    _, figures = steps(model, batch, PolicyLoss(), batch_tokens=1)
    assert figures["trained_tokens"] == total


@pytest.mark.parametrize("algorithm", ["reinforce", "cispo", "grpo", "dapo"])
def test_on_policy_every_algorithm_has_the_gradient_of_reinforce(algorithm: Algorithm) -> None:
    model, batch = made(), rollouts()
    logprobs = alone(model, batch)
    at = batch.own.nonzero()[:, 0]
    batch = replace(
        batch, logprobs=torch.zeros(len(batch.ids), dtype=torch.float64).index_copy(0, at, logprobs.detach())
    )
    sequence = torch.repeat_interleave(torch.arange(len(batch)), batch.lengths)[at]
    (-(batch.advantages[sequence] * logprobs).sum() / len(at)).backward()
    expected = gradients(model)
    found, figures = steps(model, batch, PolicyLoss(algorithm=algorithm, loss_norm="batch_token"), batch_tokens=25)
    close(found, expected)
    assert figures["grad_norm"] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in expected.values())))
    assert figures["dlogp_max"] < 1e-10 and figures["clip_share"] == 0


def test_group_token_is_equation_4_by_hand_with_groups_of_unequal_size() -> None:
    model, batch = made(), rollouts()
    at = batch.own.nonzero()[:, 0]
    sequence = torch.repeat_interleave(torch.arange(len(batch)), batch.lengths)[at]
    group = batch.groups[sequence]
    logprobs = alone(model, batch)
    weight = (logprobs.detach() - batch.logprobs[at]).exp().clamp(max=1.2)
    terms = weight * batch.advantages[sequence] * logprobs
    named = batch.groups.unique().tolist()
    (-torch.stack([terms[group == one].mean() for one in named]).mean()).backward()
    expected = gradients(model)
    found, _ = steps(model, batch, PolicyLoss(is_weight_max=1.2))
    close(found, expected)
    found, _ = steps(model, batch, PolicyLoss(eps_high=0.2), batch_tokens=20)
    close(found, expected)


def test_what_a_tool_said_is_not_learned_but_read() -> None:
    model, batch = made(), rollouts()
    free = ~batch.own
    wrong = replace(batch, logprobs=torch.where(free, torch.nan, batch.logprobs))
    close(steps(model, wrong, PolicyLoss())[0], steps(model, batch, PolicyLoss())[0], atol=0.0)
    spec = [([9, 9], 0, [(True, 2), (False, 3), (True, 2)])]
    other = replace(rollouts(spec), ids=torch.tensor([9, 9, 1, 2, 3, 4, 5, 6, 7]))
    heard = replace(other, ids=torch.tensor([9, 9, 1, 2, 3, 44, 5, 6, 7]))
    one, two = (score(model, each)[0].logprob for each in (other, heard))
    assert torch.allclose(one[:2], two[:2], rtol=1e-12) and (one[2:] - two[2:]).abs().min() > 1e-6


def test_the_balance_loss_is_added_with_its_coefficient() -> None:
    model, batch = made(tiny().replace(router_aux_loss_coef=0.5), balanced=True), rollouts()
    nothing = replace(batch, advantages=torch.zeros_like(batch.advantages))
    _, _, routing = score(model, nothing)
    (0.5 * balance_loss(routing)).backward()
    expected, balance = gradients(model), balance_loss(routing).item()
    found, figures = steps(model, nothing, PolicyLoss())
    close(found, expected)
    assert figures["balance_loss"] == pytest.approx(balance) and figures["policy_loss"] == 0
    _, parts = steps(model, nothing, PolicyLoss(), batch_tokens=20)
    assert parts["balance_loss"] == pytest.approx(balance, rel=0.3)  # a mean over passes, by tokens


@pytest.mark.parametrize("advantage", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_leaves_everything_as_it_was(advantage: float) -> None:
    model, batch = made(), rollouts()
    fresh = made()
    bad = replace(batch, advantages=batch.advantages.index_fill(0, torch.tensor([2]), advantage))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    told = []
    for each, wrong in ((model, True), (fresh, False)):
        optimizer = adamw(each, rate=1e-3, betas=(0.9, 0.95), eps=1e-15, decay=0.0)
        learn = partial(update, each, optimizer, loss=PolicyLoss(), rate=1e-3, clip_norm=1.0, batch_tokens=25)
        if wrong:
            with pytest.raises(DataError, match=r"norm is (nan|inf), so the step was not taken; try a lower learning"):
                learn(bad)
            assert all(torch.equal(p, before[name]) for name, p in each.named_parameters())
            assert not optimizer.state and all(p.grad is None for p in each.parameters())
        told.append(learn(batch))
    assert told[0] == told[1]
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), fresh.parameters(), strict=True))


def test_the_gradient_is_clipped_and_the_rate_is_the_update_s() -> None:
    model, batch = made(), rollouts()
    plain, figures = steps(model, batch, PolicyLoss())
    norm = figures["grad_norm"]
    clipped, again = steps(model, batch, PolicyLoss(), clip=norm / 4)
    assert again["grad_norm"] == norm and again["learning_rate"] == 1.0
    length = math.sqrt(sum(move.square().sum().item() for move in clipped.values()))
    assert length == pytest.approx(norm / 4, rel=1e-4)
    close({name: 4 * move for name, move in clipped.items()}, plain, atol=1e-5)


def test_updates_lift_what_was_better_than_its_group() -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny())
    batch = rollouts([(ASKED, 0, [(True, 6)]), (ASKED, 0, [(True, 4)])])
    batch = replace(batch, advantages=torch.tensor([1.0, -1.0]))
    with torch.no_grad():
        before = score(model, batch)[0].logprob
    batch = replace(batch, logprobs=torch.zeros(len(batch.ids)).index_copy(0, batch.own.nonzero()[:, 0], before))
    optimizer = adamw(model, rate=1e-3, betas=(0.9, 0.95), eps=1e-15, decay=0.0)
    for _ in range(4):
        figures = update(model, optimizer, batch, PolicyLoss(), rate=1e-3, clip_norm=1.0, batch_tokens=100)
    with torch.no_grad():
        change = score(model, batch)[0].logprob - before
    assert change[:6].mean() > 0.05 and change[6:].mean() < -0.05 and figures["weight_max"] > 1.02


def test_bfloat16_agrees_loosely_and_recomputing_agrees_with_it() -> None:
    torch.manual_seed(0)
    model, batch = MiniMaxM1ForCausalLM(tiny()), rollouts()
    told = []
    for precision, recompute in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        scores, _, _ = score(model, batch, precision=precision, recompute=recompute)
        assert scores.logprob.dtype == torch.float32
        (scores.logprob * batch.advantages.float().repeat(10)[: len(scores.logprob)]).sum().backward()
        told.append((scores.logprob.detach(), torch.cat([g.flatten() for g in gradients(model).values()])))
    (full, whole), (half, rough), (again, same) = told
    assert 0 < (half - full).abs().max() < 0.1
    assert torch.cosine_similarity(rough, whole, dim=0) > 0.98
    assert torch.equal(again, half) and torch.equal(same, rough)


@pytest.mark.parametrize("targets", [("q_proj",), ("q_proj", "v_proj", "qkv_proj", "o_proj"), ("out_proj",)])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_of_an_adapted_model_only_the_adapters_move(targets: tuple[str, ...], recompute: bool) -> None:
    # Softmax first: keys without a gradient are written in place, beside others that go on from them.
    model, batch = made(PATTERNS["softmax first"]), rollouts()
    add_lora(model, 2, 4.0, targets)
    with torch.no_grad():
        for p in adapters(model).values():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.2)
    expected = alone(model, batch)
    expected.sum().backward()
    by_hand = gradients(model)
    scores, _, _ = score(model, batch, recompute=recompute)
    torch.testing.assert_close(scores.logprob, expected, rtol=1e-11, atol=1e-12)
    scores.logprob.sum().backward()
    found = gradients(model)
    assert found.keys() == by_hand.keys() == adapters(model).keys()
    close(found, by_hand)
    moved, _ = steps(model, batch, PolicyLoss())
    assert {name for name, move in moved.items() if move.any()} == adapters(model).keys()
