"""One update: its loss is the plain one, answers and routers are measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from minimax_m1.model.moe import Routing, balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.document import Document
from minimax_m1.train.optimizer import adamw
from minimax_m1.train.pack import TrainingBatch, pack
from minimax_m1.train.step import _routers, losses, train_step


def batch(prompt_weight: float, lengths: tuple[int, ...] = (40, 7, 90)) -> TrainingBatch:
    generator = torch.Generator().manual_seed(1)
    documents = [
        Document(
            ids=torch.randint(0, 64, (length,), generator=generator).tolist(),
            said=[int(at > length // 2) for at in range(length)],
            positions=list(range(length)),
            place="test",
        )
        for length in lengths
    ]
    return pack(documents, prompt_weight)


def small() -> MiniMaxM1ForCausalLM:
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(tiny())


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_loss_and_its_gradients_are_the_plain_ones(prompt_weight: float, recompute: bool) -> None:
    model, data = small().double(), batch(prompt_weight)
    found = losses(model, data, precision="float32", recompute=recompute)
    (found.loss + 0.01 * found.balance).backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    run = model.run(data.batch, model.empty_state(3), logits=data.tail)
    assert run.logits is not None
    each = cross_entropy(run.logits, data.targets, reduction="none")
    plain = (each * data.weights).sum() / data.weights.sum()
    (plain + 0.01 * balance_loss(run.routing)).backward()
    torch.testing.assert_close(found.loss, plain, rtol=1e-9, atol=1e-9, check_dtype=False)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(mine[name], p.grad, rtol=1e-7, atol=1e-9)


def test_steps_learn_one_batch_by_heart_and_report_their_routers() -> None:
    model, data = small(), batch(0.0)
    optimizer = adamw(model, rate=0.0, betas=(0.9, 0.95), eps=1e-8, decay=0.0)
    for _ in range(60):
        figures = train_step(model, optimizer, data, rate=5e-3, clip_norm=1.0)
    assert figures["loss"] < 1.0 and figures["answer_accuracy"] > 0.8 and figures["learning_rate"] == 5e-3
    assert figures["expert_load_max"] >= 1 and 0 < figures["router_entropy"] < 1.4
    assert "router_entropy" not in train_step(model, optimizer, data, rate=0.0, clip_norm=1.0, report=False)


def test_bfloat16_products_leave_the_loss_nearly_as_it_is() -> None:
    model, data = small(), batch(0.1)
    full, low = (losses(model, data, precision=p, recompute=False).loss.item() for p in ("float32", "bfloat16"))
    assert full != low and abs(full - low) < 0.02


def test_answers_are_what_is_said_however_much_prompts_weigh() -> None:
    model, found = small(), []
    optimizer = adamw(model, rate=0.0, betas=(0.9, 0.95), eps=1e-8, decay=0.0)
    for prompt_weight in (0.0, 0.3, 1.0):
        found.append(train_step(model, optimizer, batch(prompt_weight), rate=0.0, clip_norm=1.0))
    for name in ("answer_loss", "answer_accuracy"):
        assert found[0][name] == pytest.approx(found[1][name]) == pytest.approx(found[2][name])
    assert found[0]["loss"] == pytest.approx(found[0]["answer_loss"])
    assert found[2]["loss"] != pytest.approx(found[2]["answer_loss"])


def test_figures_are_those_of_each_layer_and_each_token_by_itself() -> None:
    model, data = small(), batch(0.0)
    optimizer = adamw(model, rate=0.0, betas=(0.9, 0.95), eps=1e-8, decay=0.0)
    found = losses(model.train(), data, precision="float32", recompute=False)
    worst, entropy = [], []
    for experts, logits in zip(found.routing.experts, found.routing.logits.detach(), strict=True):
        loads = torch.tensor([float((experts == expert).sum()) for expert in range(logits.shape[-1])])
        worst.append((loads.max() / loads.mean()).item())
        shares = logits[experts[:, 0] >= 0].softmax(-1)
        entropy.append(-(shares * shares.log()).sum(-1).mean().item())
    figures = train_step(model, optimizer, data, rate=0.0, clip_norm=1.0)
    assert figures["expert_load_max"] == pytest.approx(max(worst))
    assert figures["router_entropy"] == pytest.approx(sum(entropy) / len(entropy))
    assert figures["answer_loss"] == pytest.approx(-found.logprobs[data.learned].mean().item())
    assert figures["answer_accuracy"] == pytest.approx(found.right[data.learned].float().mean().item())
    assert figures["loss"] == pytest.approx(found.loss.item())


def test_a_dropped_slot_is_no_experts_load() -> None:
    experts = torch.tensor([[[0, 1], [1, -1], [2, -1], [3, 2], [-1, -1]]])  # the last row was not run
    figures = _routers(Routing(experts=experts, weights=torch.ones(1, 5, 2), logits=torch.zeros(1, 5, 4)))
    assert figures["expert_load_max"].item() == pytest.approx(2 / (6 / 4))
    assert figures["router_entropy"].item() == pytest.approx(math.log(4))
