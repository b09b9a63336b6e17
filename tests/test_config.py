"""The configuration: published keys in and out, the `-hf` spelling, and refusals that name value and limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config
from minimax_m1.errors import ConfigError
from minimax_m1.presets import PRESETS, nano, tiny

PUBLISHED: dict[str, Any] = {
    "architectures": ["MiniMaxM1ForCausalLM"],
    "attention_dropout": 0.0,
    "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    "auto_map": {"AutoConfig": "configuration_minimax_m1.MiniMaxM1Config"},
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 6144,
    "initializer_range": 0.02,
    "intermediate_size": 9216,
    "layernorm_full_attention_alpha": 3.5565588200778455,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": 3.5565588200778455,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": 3.5565588200778455,
    "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 10240000,
    "model_type": "minimax_m1",
    "num_attention_heads": 64,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "postnorm": True,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000000,
    "rotary_dim": 64,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid",
    "sliding_window": None,
    "tie_word_embeddings": False,
    "transformers_version": "4.45.2",
    "use_cache": True,
    "vocab_size": 200064,
}


def test_the_published_keys_are_the_defaults() -> None:
    assert MiniMaxM1Config.from_dict(PUBLISHED) == MiniMaxM1Config()


def test_the_published_pattern_is_one_softmax_layer_in_eight_and_last() -> None:
    config = MiniMaxM1Config()
    assert config.softmax_layers == (7, 15, 23, 31, 39, 47, 55, 63, 71, 79)
    assert len(config.lightning_layers) == 70
    assert set(config.lightning_layers).isdisjoint(config.softmax_layers)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_keys_survive_a_file(name: str, tmp_path: Path) -> None:
    config = PRESETS[name]()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()), "utf-8")
    assert MiniMaxM1Config.from_file(path) == config
    assert config.to_dict()["model_type"] == "minimax_m1"


@given(
    pattern=st.lists(st.sampled_from([LIGHTNING, SOFTMAX]), min_size=1, max_size=12),
    groups=st.integers(1, 5),
    per_group=st.integers(1, 7),
    experts=st.integers(1, 9),
    data=st.data(),
)
def test_any_configuration_of_the_family_survives_its_keys(
    pattern: list[int], groups: int, per_group: int, experts: int, data: st.DataObject
) -> None:
    config = tiny().replace(
        attn_type_list=tuple(pattern),
        num_hidden_layers=len(pattern),
        num_attention_heads=groups * per_group,
        num_key_value_heads=groups,
        num_local_experts=experts,
        num_experts_per_tok=data.draw(st.integers(1, experts)),
        postnorm=data.draw(st.booleans()),
        tie_word_embeddings=data.draw(st.booleans()),
        shared_intermediate_size=data.draw(st.sampled_from([0, 16])),
    )
    assert MiniMaxM1Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_hf_spelling_is_read() -> None:
    config = MiniMaxM1Config.from_dict(
        {
            "model_type": "minimax",
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "full_attn_alpha_factor": 1.5,
            "linear_attn_alpha_factor": 2.5,
            "mlp_beta_factor": 0.5,
            "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
            "hidden_size": 64,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "block_size": 256,
        }
    )
    assert config.attn_type_list == (LIGHTNING, SOFTMAX)
    assert config.layernorm_full_attention_alpha == 1.5
    assert config.layernorm_linear_attention_alpha == 2.5
    assert config.layernorm_mlp_beta == 0.5
    assert config.rope_theta == 5000.0
    assert config.head_dim == 8
    assert config.rotary_dim == 8  # the -hf code rotates whole heads unless a factor says otherwise


def test_a_partial_rotary_factor_is_a_rotary_dim() -> None:
    assert MiniMaxM1Config.from_dict({"head_dim": 128, "partial_rotary_factor": 0.25}).rotary_dim == 32


def test_the_vl_spelling_of_shared_experts_is_read() -> None:
    assert MiniMaxM1Config.from_dict({"shared_intermediate_size": [0]}).shared_intermediate_size == 0


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"num_hidden_layers": 2, "attn_type_list": [0]}, "attn_type_list has 1 entries for 2 layers"),
        ({"num_hidden_layers": 2, "attn_type_list": [0, 7]}, r"attn_type_list\[1\] must be 0 .* or 1 .*, got 7"),
        ({"attn_type_list": "01"}, "attn_type_list must be a list, got '01'"),
        ({"layer_types": ["sliding_attention"]}, "layer_types holds 'sliding_attention'"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "6 is not a multiple of num_key_value_heads 4"),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer of at least 1, got 0"),
        ({"hidden_size": "wide"}, "hidden_size must be an integer of at least 1, got 'wide'"),
        ({"num_local_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok 5 exceeds num_local_experts 4"),
        ({"rotary_dim": 129}, "rotary_dim must be even and at most head_dim 128, got 129"),
        ({"hidden_act": "gelu"}, "hidden_act must be \"silu\", got 'gelu'"),
        ({"shared_moe_mode": "max"}, "shared_moe_mode must be .*, got 'max'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a finite number above 0, got 0"),
        ({"rope_theta": float("nan")}, "rope_theta must be a finite number above 0, got nan"),
        ({"vocab_sise": 5}, "unknown configuration key 'vocab_sise'"),
        ({"quantization": {"bits": 4}}, r"quantization must be null or \"int8\", got \{'bits': 4\}"),
        ({"quantization_config": "int8"}, "quantization_config must be an object, got 'int8'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "asks for 'fp8' in the format None, which is not read here"),
    ],
)
def test_impossible_configurations_are_refused_by_name(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MiniMaxM1Config.from_dict(keys)


def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match="no configuration at"):
        MiniMaxM1Config.from_file(path)
    for text, says in (("{", "is not JSON"), ("[1]", "must hold a JSON object, got list")):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=says):
            MiniMaxM1Config.from_file(path)


def test_replace_checks_again() -> None:
    assert nano().replace(vocab_size=600).vocab_size == 600
    with pytest.raises(ConfigError, match="vocab_size"):
        nano().replace(vocab_size=0)


def test_int8_weights_are_told_in_the_words_of_compressed_tensors() -> None:
    config = tiny().replace(quantization="int8")
    keys = json.loads(json.dumps(config.to_dict()))
    assert "quantization" not in keys and MiniMaxM1Config.from_dict(keys) == config
    assert MiniMaxM1Config.from_dict({**keys, "quantization_config": None}) == tiny()
    assert "quantization_config" not in tiny().to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pack-quantized"},
        {"kv_cache_scheme": {"num_bits": 8}},
        {"config_groups": []},
        {"config_groups": {"group_0": {"targets": ["Linear"]}}},
        {"weights": {"num_bits": 4}},
        {"weights": {"strategy": "group", "group_size": 128}},
        {"weights": {"symmetric": False}},
        {"input_activations": {"num_bits": 8}},
    ],
)
def test_other_quantised_checkpoints_are_refused(change: dict[str, Any]) -> None:
    keys = tiny().replace(quantization="int8").to_dict()
    told = keys["quantization_config"]
    group = told["config_groups"]["group_0"]
    if "weights" in change:
        group["weights"] |= change["weights"]
    elif "input_activations" in change:
        group |= change
    else:
        told |= change
    with pytest.raises(ConfigError, match="quantization_config asks for 'compressed-tensors' in the format"):
        MiniMaxM1Config.from_dict(keys)
