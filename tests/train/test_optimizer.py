"""What is frozen stays out of the optimizer, and decay keeps to matrices."""

from __future__ import annotations

from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.optimizer import adamw


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
