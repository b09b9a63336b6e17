"""What is frozen stays out of the optimizer, and decay keeps to matrices."""

from __future__ import annotations

import torch

from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.optimizer import adamw, restore


def test_weight_decay_spares_norms_and_the_embedding() -> None:
    model = MiniMaxM1ForCausalLM(tiny())
    model.lm_head.weight.requires_grad = False
    decayed, free = adamw(model, rate=1e-3, betas=(0.9, 0.95), eps=1e-8, decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 2)[1] for p in free["params"]} == {
        "embed_tokens", "norm", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip
    assert "lm_head.weight" not in {names[id(p)] for p in decayed["params"]}


def test_what_a_recipe_changes_of_the_optimizer_holds_after_a_resume() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    made = adamw(model, rate=0.1, betas=(0.9, 0.95), eps=1e-8, decay=0.0)
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    again = adamw(model, rate=0.1, betas=(0.5, 0.6), eps=1e-15, decay=0.25)
    plain = adamw(model, rate=0.1, betas=(0.5, 0.6), eps=1e-15, decay=0.25)
    plain.load_state_dict(made.state_dict())
    assert plain.param_groups[0]["weight_decay"] == 0.0, "torch takes the old settings: the bug"
    restore(again, made.state_dict())
    assert [group["weight_decay"] for group in again.param_groups] == [0.25, 0.0]
    assert all(group["betas"] == (0.5, 0.6) and group["eps"] == 1e-15 for group in again.param_groups)
    for parameter in model.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], made.state[parameter]["exp_avg"])
