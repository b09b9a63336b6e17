"""One update: its loss is the plain one, routers and activations are measured, what is frozen stays."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from minimax_m1.model.moe import balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.document import Document
from minimax_m1.train.pack import TrainingBatch, pack
from minimax_m1.train.step import Activations, adamw, losses, train_step


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
    assert figures["loss"] < 1.0 and figures["answer_accuracy"] > 0.8 and figures["rate"] == 5e-3
    assert figures["expert_load_max"] >= 1 and 0 < figures["router_entropy"] < 1.4
    assert "router_entropy" not in train_step(model, optimizer, data, rate=0.0, clip_norm=1.0, report=False)


def test_bfloat16_products_leave_the_loss_nearly_as_it_is() -> None:
    model, data = small(), batch(0.1)
    full, low = (losses(model, data, precision=p, recompute=False).loss.item() for p in ("float32", "bfloat16"))
    assert full != low and abs(full - low) < 0.02


def test_activations_are_counted_and_recomputing_keeps_fewer() -> None:
    model, data = small(), batch(0.0, (400, 300))
    sizes = []
    for recompute in (False, True):
        with Activations(model) as kept:
            losses(model, data, precision="float32", recompute=recompute)
        sizes.append(kept.bytes)
    rows, width = 700, 32
    assert sizes[0] > 4 * 10 * rows * width * 4  # at least ten tensors of a layer, four layers
    assert sizes[1] < sizes[0] / 2


def test_weight_decay_spares_norms_and_the_embedding() -> None:
    model = small()
    model.lm_head.weight.requires_grad = False
    decayed, free = adamw(model, rate=1e-3, betas=(0.9, 0.95), eps=1e-8, decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 2)[1] for p in free["params"]} == {
        "embed_tokens", "norm", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip
    assert "lm_head.weight" not in {names[id(p)] for p in decayed["params"]}
