"""Causal attention of many queries through the best library at hand: prefill and training.

In and out as in reference.py, float32, bfloat16 and float16, any device. `choose` says which library that is, and why.
Flash attention is called as torch's own operator, whose first arguments have stayed the same from torch 2.5 to 2.13
(its Python form's have not), or as a package's function. Its causal mask ends at the lower right corner, so that cached
keys need nothing, and heads of a group share keys without copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from minimax_m1.kernels.attention.torch import attention as fused
from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.segments import Segments

Library = Literal["flash_attn_interface", "flash_attn", "flash", "torch"]


def choose(
    device: str, capability: tuple[int, int], dtype: torch.dtype, width: int, installed: Callable[[str], bool]
) -> Library:
    """Which library computes attention of heads of `width` numbers.

    On CUDA devices of capability 8.0 on, bfloat16 and float16 with heads of a multiple of 8 up to 256 go to flash
    attention: to the package `flash_attn_interface` (FlashAttention-3) where it is installed and the GPU is a Hopper
    one, else to the package `flash_attn`, else to torch's own. All else, float32 and CPUs, goes to torch.py; keys in
    pages never come here then (triton_prefill.py).
    """
    if device != "cuda" or capability < (8, 0) or dtype not in (torch.bfloat16, torch.float16):
        return "torch"
    if width % 8 or width > 256:
        return "torch"
    if capability[0] == 9 and installed("flash_attn_interface"):
        return "flash_attn_interface"
    return "flash_attn" if installed("flash_attn") else "flash"


@eager
def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments) -> Tensor:
    """Softmax attention; gradients equal the reference's.

    Sequences without cached keys are packed for one call. Others are called one by one: there may be far more cached
    keys than new ones, and packing would copy them.
    """
    assert len(keys) == len(values) == len(segments)
    library = library_of(q)
    if library == "torch":
        return fused(q, keys, values, segments)
    asking = [n for n, new in enumerate(segments.lengths) if new]
    held = [(keys[n].to(q.dtype), values[n].to(q.dtype)) for n in asking]  # under autocast, kept ones may be wider
    if len(asking) > 1 and sum(len(key) for key, _ in held) == segments.total:
        key, value = (torch.cat(each) for each in zip(*held, strict=True))
        return packed(q, key, value, segments)
    queries = [query for query in q.split(segments.lengths) if len(query)]
    parts = [_one(library, query, *pair) for query, pair in zip(queries, held, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else q


@eager
def packed(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    starts: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """q [T, H, D]; key and value [sum of L_n, G, D], one sequence after the other -> [T, H, D].

    `starts`, int32 [N+1] on q's device, and `lengths` [N] say where each sequence's keys begin and how many it has, as
    many as queries if not said.
    """
    library = library_of(q)
    lengths = segments.lengths if lengths is None else lengths
    assert len(key) == len(value) == sum(lengths), (key.shape, lengths)
    if library == "torch":
        return fused(q, key.split(list(lengths)), value.split(list(lengths)), segments)
    key, value = key.to(q.dtype), value.to(q.dtype)
    if len(segments) == 1:
        return _one(library, q, key, value)
    firsts = segments.starts(q.device)
    edges = firsts, firsts if starts is None else starts, max(segments.lengths), max(lengths)
    if library == "flash":
        return _flash(q, key, value, *edges)
    return _output(import_module(library).flash_attn_varlen_func(q, key, value, *edges, causal=True))


def _one(library: Library, q: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sequence: q [T, H, D], key and value [L, G, D] -> [T, H, D]."""
    batch = q[None], key[None], value[None]
    if library == "flash":
        return _flash(*batch, None, None, len(q), len(key))[0]
    return _output(import_module(library).flash_attn_func(*batch, causal=True))[0]


def _flash(*args: Any) -> Tensor:
    """torch's own flash attention: q, key, value, where sequences begin among queries and keys, their most; causal,
    without dropout."""
    return torch.ops.aten._flash_attention_forward(*args, 0.0, True, False)[0]  # type: ignore[no-any-return]


def _output(given: Any) -> Tensor:
    """FlashAttention-3 gives its logarithms too, in some versions."""
    return given[0] if isinstance(given, tuple) else given  # type: ignore[no-any-return]


def library_of(q: Tensor) -> Library:
    """Which one computes attention of these queries."""
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else (0, 0)
    return choose(q.device.type, capability, q.dtype, q.shape[2], _installed)


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None
