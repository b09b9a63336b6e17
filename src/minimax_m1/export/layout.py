"""A model as llama.cpp's architecture `minimax-01` has it: what each tensor is made of, and the header's numbers.

In: a configuration. Out: `Layout`, or a RequestError that names the field which llama.cpp cannot express.
Read from src/models/minimax-01.cpp. It knows one residual factor, no beta and one epsilon, where we have two; with
postnorm what it lacks can be folded into the weights, and the outputs stay what they were (see `Layout`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from minimax_m1.config import LIGHTNING, MiniMaxM1Config
from minimax_m1.errors import RequestError
from minimax_m1.model.names import GATE

ARCHITECTURE = "minimax-01"
_MOST_LAYERS, _MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of the file: the published tensors in it (several are stacked), its shape, what it is multiplied by.

    `small` marks those that stay float32 whatever the file's type: norms and routers.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    factor: float = 1.0
    small: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of a file but its words: tensors in the order of the file, numbers under llama.cpp's keys.

    Every norm but lightning's own reads x = alpha n + beta f(n), with n the norm before it. Scaled by c everywhere (in
    the embedding, alpha and the last weight of each f), x leaves each norm as it was if epsilon is scaled by c². So c
    is chosen to make that epsilon lightning's own, which is then the only one; beta goes into the last weight of f.
    """

    tensors: tuple[Entry, ...]
    numbers: dict[str, int | float | list[bool]]

    @classmethod
    def of(cls, config: MiniMaxM1Config, *, power_of_two: bool = False) -> Self:
        """`power_of_two` rounds c to one, which leaves 16-bit weights unrounded; lightning's epsilon is then met within
        a factor of 2. Raises RequestError, `param` the field at fault."""
        _check(config)
        scale = math.sqrt(config.lightning_norm_eps / config.rms_norm_eps) if config.lightning_layers else 1.0
        if power_of_two:
            scale = 2.0 ** round(math.log2(scale))
        numbers: dict[str, int | float | list[bool]] = {
            "block_count": config.num_hidden_layers,
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "feed_forward_length": config.intermediate_size,
            "vocab_size": config.vocab_size,
            "expert_count": config.num_local_experts,
            "expert_used_count": config.num_experts_per_tok,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps * scale**2,
            "attention.recurrent_layers": [kind == LIGHTNING for kind in config.attn_type_list],
            "rope.dimension_count": config.rotary_dim,
            "rope.freq_base": float(config.rope_theta),
            "residual_scale": config.layernorm_mlp_alpha * scale,
        }
        return cls(
            tensors=tuple(_tensors(config, scale)),
            numbers={f"{ARCHITECTURE}.{key}": value for key, value in numbers.items()},
        )


def _tensors(config: MiniMaxM1Config, scale: float) -> Iterator[Entry]:
    table = (config.vocab_size, config.hidden_size)
    embedding = "model.embed_tokens.weight"
    yield Entry(name="token_embd.weight", parts=(embedding,), shape=table, factor=scale)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer, scale)
    yield Entry(name="output_norm.weight", parts=("model.norm.weight",), shape=(config.hidden_size,), small=True)
    if not config.tie_word_embeddings:
        yield Entry(name="output.weight", parts=("lm_head.weight",), shape=table)
    elif scale != 1:  # the head is no longer the embedding
        yield Entry(name="output.weight", parts=(embedding,), shape=table)


def _layer(config: MiniMaxM1Config, layer: int, scale: float) -> Iterator[Entry]:
    width, inner, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
    heads, groups = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim

    def entry(name: str, part: str, *shape: int, factor: float = 1.0) -> Entry:
        part = f"model.layers.{layer}.{part}"
        small = len(shape) == 1 or part.endswith(GATE)
        return Entry(name=f"blk.{layer}.{name}.weight", parts=(part,), shape=shape, factor=factor, small=small)

    def stacked(name: str, part: str, *shape: int, factor: float = 1.0) -> Entry:
        stem = f"model.layers.{layer}.block_sparse_moe.experts"
        parts = tuple(f"{stem}.{expert}.{part}.weight" for expert in range(experts))
        return Entry(name=f"blk.{layer}.{name}.weight", parts=parts, shape=(experts, *shape), factor=factor)

    yield entry("attn_norm", "input_layernorm.weight", width)
    if config.attn_type_list[layer] == LIGHTNING:
        last = scale * config.layernorm_linear_attention_beta
        yield entry("attn_qkv", "self_attn.qkv_proj.weight", 3 * heads, width)
        yield entry("attn_gate", "self_attn.output_gate.weight", heads, width)
        yield entry("attn_norm_2", "self_attn.norm.weight", heads)
        yield entry("attn_output", "self_attn.out_proj.weight", width, heads, factor=last)
    else:
        last = scale * config.layernorm_full_attention_beta
        yield entry("attn_q", "self_attn.q_proj.weight", heads, width)
        yield entry("attn_k", "self_attn.k_proj.weight", groups, width)
        yield entry("attn_v", "self_attn.v_proj.weight", groups, width)
        yield entry("attn_output", "self_attn.o_proj.weight", width, heads, factor=last)
    yield entry("ffn_norm", "post_attention_layernorm.weight", width)
    yield entry("ffn_gate_inp", GATE, experts, width)
    yield stacked("ffn_gate_exps", "w1", inner, width)
    yield stacked("ffn_up_exps", "w3", inner, width)
    yield stacked("ffn_down_exps", "w2", width, inner, factor=scale * config.layernorm_mlp_beta)


def _check(config: MiniMaxM1Config) -> None:
    """Raises RequestError for the first field that `minimax-01` has no place for."""

    def need(field: str, good: bool, limit: str) -> None:
        if not good:
            value = getattr(config, field)
            raise RequestError(f"llama.cpp can express {field} only where it is {limit}, got {value!r}", param=field)

    alpha, heads = config.layernorm_mlp_alpha, config.num_attention_heads
    need("postnorm", config.postnorm, "true")
    need("shared_intermediate_size", config.shared_intermediate_size == 0, "0")
    need("num_local_experts", config.num_local_experts <= _MOST_EXPERTS, f"at most {_MOST_EXPERTS}")
    good = bool(config.lightning_layers) and bool(config.softmax_layers)
    need("attn_type_list", good and config.num_hidden_layers <= _MOST_LAYERS, "at most 512 layers of both kinds")
    need("num_attention_heads", heads.bit_count() == 1, "a power of two, by which it computes the decay of each head")
    need("softmax_log_n", config.softmax_log_n == 0, "0, since it does not sharpen attention with length")
    need("rotary_dim", config.rotary_dim >= 2, "at least 2")
    for mixer in ("linear", "full"):
        name = f"layernorm_{mixer}_attention_alpha"
        need(name, getattr(config, name) == alpha, f"the same as layernorm_mlp_alpha, {alpha}")
