"""Configurations of every kind the family allows, and a small random model of each."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

VARIANTS: dict[str, MiniMaxM1Config] = {
    "published shape": tiny(),
    "pre-norm with betas": tiny().replace(
        postnorm=False, layernorm_mlp_beta=0.7, layernorm_linear_attention_beta=1.3, layernorm_full_attention_beta=0.4
    ),
    "six heads, one group": tiny().replace(num_attention_heads=6, num_key_value_heads=1),
    "shared expert": tiny().replace(shared_intermediate_size=24),
    "tied, one expert of one": tiny().replace(tie_word_embeddings=True, num_local_experts=1, num_experts_per_tok=1),
    "every expert": tiny().replace(num_experts_per_tok=4),
    "no softmax layer": tiny().replace(attn_type_list=(0, 0, 0, 0)),
    "softmax only, whole head turned": tiny().replace(attn_type_list=(1, 1, 1, 1), rotary_dim=8),
    "softmax first, no rotation": tiny().replace(attn_type_list=(1, 0, 1, 0), rotary_dim=0),
    "one layer": tiny().replace(num_hidden_layers=1, attn_type_list=(0,)),
}


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> MiniMaxM1ForCausalLM:
    """Each variant in turn."""
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(VARIANTS[request.param]).eval()


@pytest.fixture
def tiny_model() -> MiniMaxM1ForCausalLM:
    """The published shape in small."""
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(tiny()).eval()
