"""Named sizes: functions that return whole configurations.

In: a name of `PRESETS`. Out: a fresh `MiniMaxM1Config`. A preset is a shape and never weights;
for those ask `location.locate`. Variation is `preset().replace(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config


def m1() -> MiniMaxM1Config:
    """MiniMax-M1, 40K and 80K alike: 456B parameters, 45.9B active (its published config.json)."""
    return MiniMaxM1Config()


def text01() -> MiniMaxM1Config:
    """MiniMax-Text-01: M1 went on from its weights and kept the shape, so the two differ in name only."""
    return m1()


def nano() -> MiniMaxM1Config:
    """The embedded model: 8 layers, softmax last, 8 experts of 128; small enough to train on two CPU cores.

    alpha is (2N)^0.25 = 2.0 for N = 8 layers, DeepNorm's constant, as M1 has it for its 80.
    """
    return MiniMaxM1Config(
        vocab_size=512,
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        attn_type_list=(LIGHTNING,) * 7 + (SOFTMAX,),
        intermediate_size=128,
        num_local_experts=8,
        num_experts_per_tok=2,
        rotary_dim=16,
        max_position_embeddings=1_048_576,
        layernorm_full_attention_alpha=2.0,
        layernorm_linear_attention_alpha=2.0,
        layernorm_mlp_alpha=2.0,
    )


def tiny() -> MiniMaxM1Config:
    """For tests: every part of the family in 4 layers, built in milliseconds."""
    return MiniMaxM1Config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_type_list=(LIGHTNING, LIGHTNING, LIGHTNING, SOFTMAX),
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        rotary_dim=4,
        max_position_embeddings=4096,
        layernorm_full_attention_alpha=8**0.25,
        layernorm_linear_attention_alpha=8**0.25,
        layernorm_mlp_alpha=8**0.25,
    )


PRESETS: Mapping[str, Callable[[], MiniMaxM1Config]] = MappingProxyType(
    {"minimax-m1": m1, "minimax-text-01": text01, "nano": nano, "tiny": tiny}
)
