"""One layer of each kind at the published size, with all 32 experts, as the model runs it: prefill and decode.

In: a `Bench`. Out: its rows, with bf16 and with int8 weights (in bf16 the whole model does not fit eight cards of
80 GB), and the times that gpu_projection.py works out the whole model from. Weights are random.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_clock import LOW, Bench, off
from gpu_experts import nbytes
from torch import Tensor

from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config
from minimax_m1.kernels.layer import reference
from minimax_m1.kernels.layer.parts import Parts, Past, Pooled
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.pages import BlockTable, PageTable
from minimax_m1.kernels.rope.reference import rope_tables
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots
from minimax_m1.model.attention import Places
from minimax_m1.model.batch import Batch
from minimax_m1.model.block import DecoderLayer
from minimax_m1.model.layers import head
from minimax_m1.model.quantization import quantize
from minimax_m1.model.state import PagedKeyValues
from minimax_m1.presets import m1, nano

NAMES = {LIGHTNING: "lightning", SOFTMAX: "softmax"}
ROW_BOUND = 3e-2  # of the middle row: a token whose third expert is as good as its second may go to another one
PAST, PAGE = 16_384, 256  # tokens that each sequence of a decode step has behind it; tokens of a page


def blocks(bench: Bench) -> None:
    """The section."""
    for kind, name in NAMES.items():
        for form in ("bf16", "int8"):
            with bench.part(f"{name} {form}"), torch.inference_mode():
                layer = built(bench, kind, form)
                for tokens in bench.pick((8192, 32_768), (20,)):
                    prefill(bench, layer, kind, tokens, form)
                for rows in bench.pick((1, 16, 64), (2,)):
                    decode(bench, layer, kind, rows, form)
                del layer
    with bench.part("head"), torch.inference_mode():
        logits(bench)


def config_of(bench: Bench, kind: int) -> MiniMaxM1Config:
    """A model of one layer of this kind; where it is no measurement, a small one."""
    small = nano().replace(intermediate_size=48, num_local_experts=4, num_attention_heads=2, num_key_value_heads=1)
    config: MiniMaxM1Config = bench.pick(m1(), small)
    return config.replace(num_hidden_layers=1, attn_type_list=(kind,))


def built(bench: Bench, kind: int, form: str) -> DecoderLayer:
    """The layer with random weights in the model's dtype, rounded to int8 afterwards if asked for."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(LOW)
    try:
        with bench.device:
            layer = DecoderLayer(config_of(bench, kind), 0).eval()
    finally:
        torch.set_default_dtype(usual)
    for weight in layer.parameters():
        if weight.dim() > 1:
            weight.normal_().mul_(weight.shape[-1] ** -0.5)
    if form == "int8":
        quantize(layer)
    return layer


def prefill(bench: Bench, layer: DecoderLayer, kind: int, tokens: int, form: str) -> None:
    """One prompt from nothing; the floor is the arithmetic of all products."""
    config = config_of(bench, kind)
    x = bench.random(tokens, config.hidden_size)
    batch = Batch(
        ids=torch.zeros(tokens, dtype=torch.long, device=bench.device),
        segments=Segments.of([tokens]),
        positions=torch.arange(tokens, device=bench.device),
    )
    places = Places.of(batch, [0], config, torch.float32)
    heads, width = config.num_attention_heads, config.head_dim
    memory: Any = torch.zeros(1, heads, width, width, device=bench.device)
    if kind == SOFTMAX:
        pages = -(-tokens // PAGE)
        data = bench.random(2, pages, PAGE, config.num_key_value_heads, width)
        memory = PagedKeyValues(data, PageTable((np.random.default_rng(0).permutation(pages),), (0,), PAGE))
    ops = Ops.triton()
    error = None
    if tokens <= 8192:
        got = layer(x, batch, places, memory, 1.0, ops)[0]
        want = layer(x, batch, places, memory, 1.0, Ops.torch())[0]
        error = middle(bench, f"{NAMES[kind]} {form}, prefill, beside the torch path", got, want)
    ms = bench.time(lambda: layer(x, batch, places, memory, 1.0, ops), least=150)
    row = bench.tell(
        f"{NAMES[kind]} block, {form}, prefill {tokens:,}",
        ms,
        flops=tokens * token_flops(config, kind, tokens),
        error=error,
        aims={"floor": 0.55} if form == "bf16" else {},
        tokens_per_second=1e3 * tokens / ms,
    )
    bench.facts.setdefault(f"{NAMES[kind]} {form} prefill ms", {})[str(tokens)] = row["ms"]


def token_flops(config: MiniMaxM1Config, kind: int, tokens: int) -> float:
    """Multiplications and additions of one token, the middle one of a prompt of so many."""
    hidden, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    groups = config.num_key_value_heads * config.head_dim
    experts = 6 * hidden * config.intermediate_size * config.num_experts_per_tok
    if kind == LIGHTNING:
        return 2 * hidden * 5 * inner + 4 * inner * config.head_dim + experts
    return 2 * hidden * 2 * (inner + groups) + 2 * tokens * inner + experts


def decode(bench: Bench, layer: DecoderLayer, kind: int, rows: int, form: str) -> None:
    """One token of each sequence; the floor is weights, of the experts that are met, and states, read (and written)."""
    config = config_of(bench, kind)
    parts = layer.parts()
    assert parts is not None
    step = Ops.triton().layer
    assert step is not None
    given = [bench.random(rows, config.hidden_size) for _ in range(bench.pick(3, 1))]
    past, kept = remembered(bench, config, kind, rows)
    aside = Slots(past.pool.clone(), past.index) if isinstance(past, Slots) else past
    want = reference.layer(given[0].float(), widened(parts), aside, 1.0)
    got = step(given[0], parts, past, 1.0)
    error = middle(bench, f"{NAMES[kind]} {form}, step of {rows}", got.x, want.x)
    met = sum(len(step(x, parts, past, 1.0).experts.unique()) for x in given) / len(given)
    ms = bench.replay([partial(step, x, parts, past, 1.0) for x in given])
    mixer = sum(nbytes(each) for each in mixer_weights(parts))
    expert = (nbytes(parts.experts.w13) + nbytes(parts.experts.w2)) / config.num_local_experts
    row = bench.tell(
        f"{NAMES[kind]} block, {form}, decode {rows}",
        ms,
        moved=mixer + parts.experts.router.nbytes + met * expert + kept,
        error=error,
        aims={"floor": 0.75} if form == "bf16" else {},
        experts_met=met,
        tokens_per_second=1e3 * rows / ms,
    )
    bench.facts.setdefault(f"{NAMES[kind]} {form} decode ms", {})[str(rows)] = row["ms"]


def remembered(bench: Bench, config: MiniMaxM1Config, kind: int, rows: int) -> tuple[Past, float]:
    """What the sequences of a step have behind them, and the bytes of it that a step moves."""
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if kind == LIGHTNING:
        pool = bench.random(rows, heads, width, width, dtype=torch.float32)
        return Slots(pool, torch.randperm(rows, device=bench.device).int()), 2 * pool.nbytes
    length, size = bench.pick((PAST, PAGE), (40, 16))
    each = -(-length // size)
    pool = bench.random(2, rows * each, size, groups, width)
    pages = torch.randperm(rows * each, device=bench.device).int().view(rows, each)
    at = torch.full((rows,), length - 1, device=bench.device)
    cos, sin = rope_tables(at, config.rotary_dim, config.rope_theta, torch.float32)
    places = pages[:, (length - 1) // size].long() * size + (length - 1) % size
    table = BlockTable(pages, torch.full((rows,), length, dtype=torch.int32, device=bench.device))
    return Pooled(pool[0], pool[1], table, places, cos, sin), pool.nbytes


def widened(parts: Parts) -> Parts:
    """With norms in float32, as its maps are read by the reference where the input is."""
    mixer: Any = parts.mixer
    if hasattr(mixer, "norm"):
        mixer = replace(mixer, norm=mixer.norm.float())
    return replace(parts, norm=parts.norm.float(), experts_norm=parts.experts_norm.float(), mixer=mixer)


def mixer_weights(parts: Parts) -> list[Any]:
    """The maps of a layer's mixer."""
    names = ("qkv", "gate", "out", "q", "k", "v")
    return [getattr(parts.mixer, name) for name in names if hasattr(parts.mixer, name)]


def middle(bench: Bench, name: str, got: Tensor, want: Tensor) -> float:
    """The relative error of the middle row, checked."""
    errors = sorted(off(mine, theirs) for mine, theirs in zip(got[:256], want[:256], strict=True))
    one = got.new_ones(1).double()
    return bench.check(name, {"middle row": one * (1 + errors[len(errors) // 2])}, {"middle row": one}, ROW_BOUND)


def logits(bench: Bench) -> None:
    """The head of a decode step: float32 products with the bf16 weight of 200,064 tokens, read once."""
    config = config_of(bench, SOFTMAX)
    width, tokens = config.hidden_size, bench.pick(config.vocab_size, 96)
    weight = bench.random(tokens, width, scale=width**-0.5)
    ops = Ops.triton()
    for rows in bench.pick((1, 16, 64), (2,)):
        x = bench.random(rows, width)
        want = x.double() @ weight.double().T if rows <= 16 else head(x[:4], weight, ops).double()
        got = head(x, weight, ops)
        error = bench.check(f"logits {rows}", {"logits": got[: len(want)]}, {"logits": want}, 1e-4)
        ms = bench.replay([partial(head, x, weight, ops)] * 3)
        moved = weight.nbytes + 4 * rows * tokens
        bench.tell(f"head, {rows} rows", ms, moved=moved, flops=3 * 2 * rows * width * tokens, error=error)
        bench.facts.setdefault("head ms", {})[str(rows)] = ms
