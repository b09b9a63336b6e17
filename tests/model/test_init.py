"""A new model's weights: DeepNorm's gain where it belongs, Xavier's own deviation elsewhere, and the seed."""

from __future__ import annotations

import math

import pytest
import torch

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import m1, tiny

WIDE = tiny().replace(
    hidden_size=128, num_attention_heads=8, head_dim=32, intermediate_size=192, shared_intermediate_size=96
)
# name -> the shape that Xavier's deviation is of [out, in], and whether DeepNorm's gain goes with it.
DRAWN = {
    "model.layers.0.self_attn.output_gate.weight": ((256, 128), False),
    "model.layers.0.self_attn.out_proj.weight": ((128, 256), True),
    "model.layers.3.self_attn.q_proj.weight": ((256, 128), False),
    "model.layers.3.self_attn.k_proj.weight": ((64, 128), False),
    "model.layers.3.self_attn.v_proj.weight": ((64, 128), True),
    "model.layers.3.self_attn.o_proj.weight": ((128, 256), True),
    "model.layers.1.block_sparse_moe.gate.weight": ((4, 128), False),
    "model.layers.2.block_sparse_moe.experts.3.w1.weight": ((192, 128), True),
    "model.layers.2.block_sparse_moe.experts.3.w2.weight": ((128, 192), True),
    "model.layers.2.block_sparse_moe.experts.0.w3.weight": ((192, 128), True),
    "model.layers.2.shared_mlp.gate_proj.weight": ((96, 128), True),
    "model.layers.2.shared_mlp.down_proj.weight": ((128, 96), True),
}


def made(config: MiniMaxM1Config, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(MiniMaxM1ForCausalLM(config).state_dict())


def test_the_gain_of_the_published_depth() -> None:
    assert math.isclose((8 * m1().num_hidden_layers) ** -0.25, 0.198818, rel_tol=1e-5)
    assert math.isclose(m1().layernorm_mlp_alpha, (2 * m1().num_hidden_layers) ** 0.25, rel_tol=1e-12)


@pytest.mark.parametrize("postnorm", [True, False])
def test_deviations_are_xaviers_with_deepnorms_gain(postnorm: bool) -> None:
    weights = made(WIDE.replace(postnorm=postnorm))
    gain = (8 * 4) ** -0.25 if postnorm else 1.0
    for name, (shape, scaled) in DRAWN.items():
        expected = (gain if scaled else 1.0) * math.sqrt(2 / sum(shape))
        weight = weights[name]
        assert tuple(weight.shape) == shape
        assert abs(weight.std().item() / expected - 1) < 5 / math.sqrt(2 * weight.numel()), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel()), name


def test_queries_and_keys_of_the_joint_map_have_no_gain_and_values_do() -> None:
    qkv = made(WIDE)["model.layers.0.self_attn.qkv_proj.weight"].view(8, 3, 32, 128)
    plain = math.sqrt(2 / (3 * 256 + 128))
    for part, expected in enumerate((plain, plain, plain * (8 * 4) ** -0.25)):
        assert abs(qkv[:, part].std().item() / expected - 1) < 0.02


def test_embedding_and_head_have_their_own_deviation_and_norms_are_one() -> None:
    weights = made(WIDE.replace(initializer_range=0.05))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert abs(weights[name].std().item() / 0.05 - 1) < 0.05
    norms = [weight for name, weight in weights.items() if name.endswith("norm.weight")]
    assert len(norms) == 4 * 2 + 3 + 1 and all(bool((weight == 1).all()) for weight in norms)


def test_a_seed_repeats_the_start() -> None:
    first, again, other = (made(WIDE, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
