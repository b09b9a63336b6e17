"""The calls that gpu_resources.py compiles: each op at the published shapes and at nano's, on tensors without data.

In: nothing. Out: named functions, each of which calls an op as a model does. Letters as in kernels/ops.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config
from minimax_m1.kernels.layer.parts import Experts, LightningMixer, Parts, Pooled, SoftmaxMixer
from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots
from minimax_m1.presets import m1, nano

LOW, WIDE = torch.bfloat16, torch.float32
PAGE = 256


def empty(*shape: int, dtype: torch.dtype = LOW, grad: bool = False) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad)


def pulled(*outputs: Tensor) -> None:
    """Runs the backward of some outputs."""
    torch.autograd.backward(outputs, [torch.empty_like(out) for out in outputs])


def lightning(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype = LOW, *, backward: bool = False, **options: Any
) -> None:
    from minimax_m1.kernels.lightning.triton import lightning as op

    tokens = sum(lengths)
    qkv = empty(tokens, heads, 3 * width, dtype=dtype, grad=backward)  # head-major, as the model's split gives them
    states = empty(len(lengths), heads, width, width, dtype=WIDE, grad=backward)
    slopes = empty(heads, dtype=WIDE)
    out, ends = op(*qkv.split(width, -1), slopes, Segments.of(lengths), states, **options)
    if backward:
        pulled(out, ends)


def recurrent(slots: int, heads: int, width: int, dtype: torch.dtype = LOW) -> None:
    from minimax_m1.kernels.recurrent.triton import recurrent as op

    inner = heads * width
    pool = empty(slots + 1, heads, width, width, dtype=WIDE)
    qkv, gate = empty(slots, 3 * inner, dtype=dtype), empty(slots, inner, dtype=dtype)
    states = Slots(pool, empty(slots, dtype=torch.int32))
    op(qkv, gate, empty(inner, dtype=dtype), 1e-6, empty(heads, dtype=WIDE), states)


def expert_weights(experts: int, width: int, inner: int, kind: str, *, grad: bool = False) -> tuple[Any, ...]:
    """w13 and w2 as bf16, float32, int8 or fp8."""
    shapes = (experts, 2 * inner, width), (experts, width, inner)
    if kind == "int8":
        return tuple(Int8(empty(*shape, dtype=torch.int8), empty(*shape[:2], dtype=WIDE)) for shape in shapes)
    if kind == "fp8":
        from minimax_m1.kernels.fp8 import Fp8

        return tuple(Fp8(empty(*shape, dtype=torch.float8_e4m3fn), empty(*shape[:2], dtype=WIDE)) for shape in shapes)
    dtype = LOW if kind == "bf16" else WIDE
    return tuple(empty(*shape, dtype=dtype, grad=grad) for shape in shapes)


def moe(tokens: int, experts: int, width: int, inner: int, kind: str, *, backward: bool = False) -> None:
    from minimax_m1.kernels.moe.triton import moe as op

    x = empty(tokens, width, dtype=WIDE if kind == "float32" else LOW, grad=backward)
    chosen = empty(tokens, 2, dtype=torch.int64)
    weights = empty(tokens, 2, dtype=WIDE, grad=backward)
    out = op(x, chosen, weights, *expert_weights(experts, width, inner, kind, grad=backward))
    if backward:
        pulled(out)


def route(tokens: int, experts: int) -> None:
    from minimax_m1.kernels.moe.triton_route import route as op

    op(empty(tokens, experts, dtype=WIDE), 2, 1.0)
    op(empty(tokens, experts, dtype=WIDE), 2, empty(tokens, dtype=WIDE))


def norms(rows: int, width: int, dtype: torch.dtype = LOW, *, backward: bool = False) -> None:
    from minimax_m1.kernels.norm.triton import add_rms_norm, gated_rms_norm, rms_norm

    x, y = (empty(rows, width, dtype=dtype, grad=backward) for _ in range(2))
    weight = empty(width, dtype=dtype, grad=backward)
    for outputs in (
        (rms_norm(x, weight, 1e-5),),
        add_rms_norm(x, y, 3.5, 1.0, weight, 1e-5),
        (gated_rms_norm(x, y, weight, 1e-6),),
    ):
        if backward:
            pulled(*outputs)


def head(rows: int, width: int, tokens: int, dtype: torch.dtype = LOW, *, backward: bool = False) -> None:
    from minimax_m1.kernels.head.triton import logprobs as op

    x, weight = empty(rows, width, dtype=dtype, grad=backward), empty(tokens, width, dtype=dtype, grad=backward)
    scores = op(x, weight, empty(rows, dtype=torch.int64))
    if backward:
        pulled(scores.logprob)


def paged_attention(rows: int, tokens: int, heads: int, groups: int, width: int, dtype: torch.dtype = LOW) -> None:
    from minimax_m1.kernels.attention.triton import paged_attention as op

    most = -(-tokens // PAGE)
    pool = empty(2, 64, PAGE, groups, width, dtype=dtype)
    table = BlockTable(empty(rows, most, dtype=torch.int32), empty(rows, dtype=torch.int32))
    op(empty(rows, heads, width, dtype=dtype), pool[0], pool[1], table)


def paged_prefill(tokens: int, heads: int, groups: int, width: int, dtype: torch.dtype = LOW) -> None:
    from minimax_m1.kernels.attention.triton_prefill import paged_prefill as op

    pool = empty(2, 64, PAGE, groups, width, dtype=dtype)
    table = BlockTable(empty(1, 64, dtype=torch.int32), empty(1, dtype=torch.int32))
    op(empty(tokens, heads, width, dtype=dtype), pool[0], pool[1], table, Segments.of([tokens]))


def rope(tokens: int, heads: int, groups: int, width: int, rotary: int, *, backward: bool = False) -> None:
    from minimax_m1.kernels.rope.triton import rope as op

    cos, sin = (empty(tokens, 1, rotary // 2, dtype=WIDE) for _ in range(2))
    for count in (heads, groups):
        out = op(empty(tokens, count, width, grad=backward), cos, sin)
        if backward:
            pulled(out)


def rotate_and_store(rows: int, heads: int, groups: int, width: int, rotary: int) -> None:
    from minimax_m1.kernels.rope.triton import rotate_and_store as op

    q, (k, v) = empty(rows, heads, width), (empty(rows, groups, width) for _ in range(2))
    cos, sin = (empty(rows, 1, rotary // 2, dtype=WIDE) for _ in range(2))
    pool = empty(2, 64, PAGE, groups, width)
    op(q, k, v, cos, sin, pool[0], pool[1], empty(rows, dtype=torch.int64))


def maps(config: MiniMaxM1Config, kind: int, form: str) -> Parts:
    """The tensors of one layer in bf16 or int8."""
    hidden, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    groups = config.num_key_value_heads * config.head_dim

    def weight(rows: int, columns: int) -> Any:
        if form == "bf16":
            return empty(rows, columns)
        return Int8(empty(rows, columns, dtype=torch.int8), empty(rows, dtype=WIDE))

    if kind == LIGHTNING:
        ends = weight(hidden, inner), empty(config.num_attention_heads, dtype=WIDE)
        mixer: Any = LightningMixer(weight(3 * inner, hidden), weight(inner, hidden), empty(inner), 1e-6, *ends)
    else:
        mixer = SoftmaxMixer(*(weight(rows, hidden) for rows in (inner, groups, groups)), weight(hidden, inner))
    w13, w2 = expert_weights(config.num_local_experts, hidden, config.intermediate_size, form)
    experts = Experts(empty(config.num_local_experts, hidden, dtype=WIDE), w13, w2, config.num_experts_per_tok)
    return Parts(empty(hidden), empty(hidden), 1e-5, mixer, experts, True, (3.5, 1.0), (3.5, 1.0))


def layer(rows: int, config: MiniMaxM1Config, kind: int, form: str) -> None:
    from minimax_m1.kernels.layer.triton import layer as op

    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    past: Any = Slots(empty(rows, heads, width, width, dtype=WIDE), empty(rows, dtype=torch.int32))
    if kind == SOFTMAX:
        pool = empty(2, 64, PAGE, groups, width)
        table = BlockTable(empty(rows, 64, dtype=torch.int32), empty(rows, dtype=torch.int32))
        turns = (empty(rows, 1, config.rotary_dim // 2, dtype=WIDE) for _ in range(2))
        past = Pooled(pool[0], pool[1], table, empty(rows, dtype=torch.int64), *turns)
    with torch.no_grad():
        op(empty(rows, config.hidden_size), maps(config, kind, form), past, 1.0)


def linear(rows: int, outs: int, width: int, kind: str) -> None:
    from minimax_m1.kernels.linear.triton import linear as op

    weight = (
        Int8(empty(outs, width, dtype=torch.int8), empty(outs, dtype=WIDE)) if kind == "int8" else empty(outs, width)
    )
    op(empty(rows, width, dtype=LOW if kind == "int8" else WIDE), weight)


def cases() -> dict[str, Callable[[], None]]:
    """Every case by its name: op, shape, what is special about it."""
    big, small = m1(), nano()
    heads, width = big.num_attention_heads, big.head_dim
    few, narrow = small.num_attention_heads, small.head_dim
    documents = [1, 500, 0, 3000, 77, 4096]
    found: dict[str, Callable[[], None]] = {
        "lightning m1 8k": partial(lightning, [8192], heads, width),
        "lightning m1 1M": partial(lightning, [2**20], heads, width),
        "lightning m1 varlen": partial(lightning, documents, heads, width),
        "lightning m1 float32": partial(lightning, [8192], heads, width, WIDE),
        "lightning m1 backward": partial(lightning, [8192], heads, width, backward=True),
        "lightning m1 float32 backward": partial(lightning, [8192], heads, width, WIDE, backward=True),
        "lightning nano pieces": partial(lightning, [2**20], few, narrow),
        "lightning nano float32 pieces": partial(lightning, [2**20], few, narrow, WIDE),
        "lightning nano backward": partial(lightning, documents, few, narrow, backward=True),
        "lightning nano backward pieces": partial(lightning, [65536], few, narrow, backward=True),
        "lightning width 96": partial(lightning, documents, 6, 96),
        "lightning width 256": partial(lightning, documents, 8, 256, backward=True),
    }
    for slots in (1, 8, 64, 256):
        found[f"recurrent m1 {slots}"] = partial(recurrent, slots, heads, width)
        found[f"recurrent nano {slots}"] = partial(recurrent, slots, few, narrow)
    found["recurrent nano float32 8"] = partial(recurrent, 8, few, narrow, WIDE)
    inner, experts = big.intermediate_size, big.num_local_experts
    for kind in ("bf16", "int8", "fp8"):
        for tokens in (8192, 256, 64, 16, 1):
            found[f"moe m1 {kind} {tokens}"] = partial(moe, tokens, experts, big.hidden_size, inner, kind)
    found["moe m1 bf16 2048 backward"] = partial(moe, 2048, experts, big.hidden_size, inner, "bf16", backward=True)
    for kind in ("bf16", "float32"):
        shape = small.num_local_experts, small.hidden_size, small.intermediate_size, kind
        for tokens in (65536, 256, 1):
            found[f"moe nano {kind} {tokens}"] = partial(moe, tokens, *shape)
        found[f"moe nano {kind} 65536 backward"] = partial(moe, 65536, *shape, backward=True)
    for name, config in (("m1", big), ("nano", small)):
        size = config.hidden_size
        inner = config.num_attention_heads * config.head_dim
        found[f"route {name} 8192"] = partial(route, 8192, config.num_local_experts)
        found[f"route {name} 64"] = partial(route, 64, config.num_local_experts)
        for columns in sorted({size, inner}):
            found[f"norms {name} {columns}"] = partial(norms, 8192, columns)
            found[f"norms {name} {columns} 1 row"] = partial(norms, 1, columns)
            found[f"norms {name} {columns} backward"] = partial(norms, 8192, columns, backward=True)
            found[f"norms {name} {columns} float32 backward"] = partial(norms, 8192, columns, WIDE, backward=True)
        vocabulary, rows = config.vocab_size, 8192 if config is big else 65536
        found[f"head {name}"] = partial(head, rows, size, vocabulary)
        found[f"head {name} backward"] = partial(head, rows, size, vocabulary, backward=True)
        found[f"head {name} float32 backward"] = partial(head, rows, size, vocabulary, WIDE, backward=True)
        asked = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        for rows, tokens in ((1, 2**20), (64, 16384), (256, 2048)):
            found[f"paged_attention {name} {rows} x {tokens}"] = partial(paged_attention, rows, tokens, *asked)
        found[f"paged_attention {name} float32"] = partial(paged_attention, 8, 16384, *asked, WIDE)
        found[f"paged_prefill {name} float32"] = partial(paged_prefill, 2048, *asked, WIDE)
        found[f"rope {name}"] = partial(rope, 8192, *asked, config.rotary_dim)
        found[f"rope {name} backward"] = partial(rope, 8192, *asked, config.rotary_dim, backward=True)
        for rows in (1, 16, 64):
            found[f"head logits {name} {rows}"] = partial(linear, rows, vocabulary, size, "float32 by bf16")
            found[f"linear {name} int8 {rows}"] = partial(linear, rows, 3 * inner, size, "int8")
            for form in ("bf16", "int8"):
                found[f"layer {name} lightning {form} {rows}"] = partial(layer, rows, config, LIGHTNING, form)
                found[f"layer {name} softmax {form} {rows}"] = partial(layer, rows, config, SOFTMAX, form)
        found[f"rotate_and_store {name} 64"] = partial(rotate_and_store, 64, *asked, config.rotary_dim)
    return found
