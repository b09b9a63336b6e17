"""The published tensors: every name and shape that a checkpoint of the family holds.

In: a configuration. Out: name -> shape in layer order, as in `model.safetensors.index.json` of MiniMax-M1.
The one list that loading, saving and inspection agree on. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from minimax_m1.config import LIGHTNING, MiniMaxM1Config

# The router's weight is stored in float32 whatever the checkpoint's dtype (index total_size shows it).
GATE = "block_sparse_moe.gate.weight"


def published_tensors(config: MiniMaxM1Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one checkpoint; tied models have no `lm_head.weight`."""
    hidden, vocab = config.hidden_size, config.vocab_size
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config.num_hidden_layers):
        tensors.update((f"model.layers.{layer}.{name}", shape) for name, shape in _layer(config, layer))
    tensors["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (vocab, hidden)
    return tensors


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
