"""The published tensors: every name and shape that a checkpoint of the family holds.

In: a configuration. Out: name -> shape in layer order, as in `model.safetensors.index.json` of MiniMax-M1.
The one list that loading, saving and inspection agree on. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from minimax_m1.config import LIGHTNING, MiniMaxM1Config

# The router's weight is stored in float32 whatever the checkpoint's dtype (index total_size shows it).
GATE = "block_sparse_moe.gate.weight"

# What MiniMax's own int8 loading leaves alone (`modules_to_not_convert` in its published main.py).
_NOT_QUANTIZED = ("lm_head.weight", "embed_tokens.weight", "coefficient.weight", GATE)
_SCALE = "_scale"


def published_tensors(config: MiniMaxM1Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one checkpoint; tied models have no `lm_head.weight`.

    With int8 weights each quantised `X.weight` [out, in] is followed by its `X.weight_scale` [out, 1].
    """
    hidden, vocab = config.hidden_size, config.vocab_size
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config.num_hidden_layers):
        tensors.update((f"model.layers.{layer}.{name}", shape) for name, shape in _layer(config, layer))
    tensors["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (vocab, hidden)
    return tensors if config.quantization is None else dict(_with_scales(tensors))


def quantizable(name: str) -> bool:
    """Whether int8 loading converts the tensor of this name: every linear map and expert but the published few."""
    return name.endswith(".weight") and not name.endswith(("norm.weight", *_NOT_QUANTIZED))


def scale_of(name: str) -> str:
    """The name of a quantised weight's scales."""
    return name + _SCALE


def is_scale(name: str) -> bool:
    """Whether a tensor of this name holds scales."""
    return name.endswith(".weight" + _SCALE)


def _with_scales(tensors: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in tensors.items():
        yield name, shape
        if quantizable(name):
            yield scale_of(name), (shape[0], 1)


def _layer(config: MiniMaxM1Config, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, ffn, shared = config.hidden_size, config.intermediate_size, config.shared_intermediate_size
    heads = config.num_attention_heads * config.head_dim
    groups = config.num_key_value_heads * config.head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    if config.attn_type_list[layer] == LIGHTNING:
        yield "self_attn.qkv_proj.weight", (3 * heads, hidden)
        yield "self_attn.output_gate.weight", (heads, hidden)
        yield "self_attn.out_proj.weight", (hidden, heads)
        yield "self_attn.norm.weight", (heads,)
    else:
        yield "self_attn.q_proj.weight", (heads, hidden)
        yield "self_attn.k_proj.weight", (groups, hidden)
        yield "self_attn.v_proj.weight", (groups, hidden)
        yield "self_attn.o_proj.weight", (hidden, heads)
    yield GATE, (config.num_local_experts, hidden)
    for expert in range(config.num_local_experts):
        yield f"block_sparse_moe.experts.{expert}.w1.weight", (ffn, hidden)
        yield f"block_sparse_moe.experts.{expert}.w2.weight", (hidden, ffn)
        yield f"block_sparse_moe.experts.{expert}.w3.weight", (ffn, hidden)
    if shared:
        yield "shared_mlp.gate_proj.weight", (shared, hidden)
        yield "shared_mlp.up_proj.weight", (shared, hidden)
        yield "shared_mlp.down_proj.weight", (hidden, shared)
        yield "coefficient.weight", (1, hidden)
