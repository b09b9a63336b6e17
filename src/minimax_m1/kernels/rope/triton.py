"""Rotary positions on a GPU: one pass over queries or keys, and the decode step's rotation and write in one launch.

In and out as in reference.py, in float32, bfloat16 and float16; strides are taken as they come. The rotation is float32
and is rounded once. A gradient turns back by the same angle.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS

_ENTRIES = 4096  # numbers a program turns, with 128 threads
_HEADS = 16  # that a program of the decode step turns: even one sequence has several


@eager
def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, H, D], cos and sin float32 [T, 1, R/2] -> [T, H, D], its first R dimensions rotated; gradient for x.

    Raises:
        ValueError: a dtype other than float32, bfloat16 and float16.
    """
    _check(x, cos, sin)
    if x.numel() == 0 or cos.shape[2] == 0:
        return x
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotation.apply(x, cos, sin)  # type: ignore[no-any-return]
    return _turned(x, cos, sin, back=False)


@eager
def rotate_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Tensor,
) -> Tensor:
    """q [N, H, D] rotated, one token a sequence; k [N, G, D], rotated, and v [N, G, D] go to pages in the same launch.

    keys and values [P, B, G, D], strided alike; places int64 [N] are rows of them seen as [P * B], -1 writes nothing.
    Asks the host nothing. No gradient.

    Raises:
        ValueError: a dtype other than float32, bfloat16 and float16.
    """
    _check(q, cos, sin)
    _check(k, cos, sin)
    assert not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))), "pages give no gradients"
    (count, heads, width), (_, size, groups, _) = q.shape, keys.shape
    assert k.shape == v.shape == (count, groups, width) and places.shape == (count,), (k.shape, places.shape)
    assert keys.shape == values.shape and keys.stride() == values.stride() and keys.stride(3) == v.stride(2) == 1
    assert q.dtype is k.dtype is v.dtype and keys.dtype is values.dtype and keys.shape[3] == width, keys.shape
    out = q.new_empty(q.shape)
    if count == 0:
        return out
    blocks = triton.cdiv(heads, _HEADS)
    _step[(count, blocks + 2 * triton.cdiv(groups, _HEADS))](
        *(q, k, v, cos, sin, out, keys, values, places, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        *keys.stride()[:3],
        **{
            "H": heads,
            "G": groups,
            "D": width,
            "SIZE": size,
            "HEADS": _HEADS,
            "BLOCK_D": triton.next_power_of_2(width),
        },
        **_halves(width, cos.shape[2]),
        num_warps=2,
    )
    return out


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0] if grads[0].stride(2) == 1 else grads[0].contiguous()
        return _turned(grad, *ctx.saved_tensors, back=True), None, None


def _check(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    if x.dtype not in FLOATS or cos.dtype is not torch.float32 or sin.dtype is not torch.float32:
        kinds = f"{x.dtype} with tables of {cos.dtype}"
        raise ValueError(f"the rotation of {list(x.shape)} takes float32, bfloat16 and float16, not {kinds}")
    assert cos.shape == sin.shape == (len(x), 1, cos.shape[2]) and 2 * cos.shape[2] <= x.shape[2], (x.shape, cos.shape)
    assert cos.is_contiguous() and sin.is_contiguous() and x.stride(2) == 1, (x.stride(), cos.stride())


def _halves(width: int, half: int) -> dict[str, int]:
    """Both halves of what turns, and what passes through, in powers of two."""
    rest = width - 2 * half
    return {"HALF": half, "BLOCK": triton.next_power_of_2(half), "REST": triton.next_power_of_2(rest) if rest else 0}


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    count, heads, width = x.shape
    out = x.new_empty(x.shape)
    block = min(triton.next_power_of_2(heads), max(1, _ENTRIES // triton.next_power_of_2(width)))
    tokens = max(1, _ENTRIES // (block * triton.next_power_of_2(width)))
    _rotate[(triton.cdiv(count, tokens), triton.cdiv(heads, block))](
        *(x, cos, sin, out, count, *x.stride()[:2]),
        **{"H": heads, "D": width, "BACK": back, "TOKENS": tokens, "HEADS": block},
        **_halves(width, cos.shape[2]),
        num_warps=4,
    )
    return out


@triton.jit
def _rotate(
    x, cos, sin, out, count, token_stride, head_stride, H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    BACK: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Some heads of some tokens."""
    t = (tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS))[:, None, None]
    h = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[None, :, None]
    d = tl.arange(0, BLOCK)[None, None, :]
    real = (t < count) & (h < H)
    turning, angle = real & (d < HALF), (t < count) & (d < HALF)
    source, target = t * token_stride + h * head_stride, (t * H + h) * D  # [T, H, 1]
    c = tl.load(cos + t * HALF + d, mask=angle, other=0.0)  # [T, 1, R/2]
    s = tl.load(sin + t * HALF + d, mask=angle, other=0.0)
    if BACK:
        s = -s
    one = tl.load(x + source + d, mask=turning, other=0.0).to(tl.float32)  # [T, H, R/2]
    two = tl.load(x + source + HALF + d, mask=turning, other=0.0).to(tl.float32)
    tl.store(out + target + d, (one * c - two * s).to(out.dtype.element_ty), mask=turning)
    tl.store(out + target + HALF + d, (two * c + one * s).to(out.dtype.element_ty), mask=turning)
    if REST > 0:
        e = 2 * HALF + tl.arange(0, REST)[None, None, :]
        tl.store(out + target + e, tl.load(x + source + e, mask=real & (e < D)), mask=real & (e < D))


@triton.jit
def _step(
    q, k, v, cos, sin, out, keys, values, places, q_stride, q_head, k_stride, k_head, v_stride, v_head, page_stride,
    place_stride, group_stride, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
    HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: queries first, then keys, then values."""
    QUERIES: tl.constexpr = (H + HEADS - 1) // HEADS
    KEYS: tl.constexpr = (G + HEADS - 1) // HEADS
    n, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if part < QUERIES:
        heads = part * HEADS + tl.arange(0, HEADS)
        source, target = q + n * q_stride + heads * q_head, out + n * (H * D) + heads * D
        _turn(source, target, cos + n * HALF, sin + n * HALF, heads < H, D, HALF, BLOCK, REST)
    else:
        place = tl.load(places + n)
        at = place // SIZE * page_stride + place % SIZE * place_stride
        if place >= 0:
            if part < QUERIES + KEYS:
                heads = (part - QUERIES) * HEADS + tl.arange(0, HEADS)
                source, target = k + n * k_stride + heads * k_head, keys + at + heads * group_stride
                _turn(source, target, cos + n * HALF, sin + n * HALF, heads < G, D, HALF, BLOCK, REST)
            else:
                heads = (part - QUERIES - KEYS) * HEADS + tl.arange(0, HEADS)
                source, target = v + n * v_stride + heads * v_head, values + at + heads * group_stride
                _turn(source, target, cos, sin, heads < G, D, 0, BLOCK, BLOCK_D)


@triton.jit
def _turn(source, target, cos, sin, real, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr):
    """Heads [HEADS] from pointers to pointers, by one token's angles."""
    if HALF > 0:
        d = tl.arange(0, BLOCK)
        c = tl.load(cos + d, mask=d < HALF, other=0.0)[None, :]  # [1, R/2]
        s = tl.load(sin + d, mask=d < HALF, other=0.0)[None, :]
        turning = real[:, None] & (d < HALF)[None, :]
        one = tl.load(source[:, None] + d[None, :], mask=turning, other=0.0).to(tl.float32)  # [H, R/2]
        two = tl.load(source[:, None] + HALF + d[None, :], mask=turning, other=0.0).to(tl.float32)
        kind: tl.constexpr = target.dtype.element_ty
        tl.store(target[:, None] + d[None, :], (one * c - two * s).to(kind), mask=turning)
        tl.store(target[:, None] + HALF + d[None, :], (two * c + one * s).to(kind), mask=turning)
    if REST > 0:
        e = 2 * HALF + tl.arange(0, REST)
        passing = real[:, None] & (e < D)[None, :]
        rest = tl.load(source[:, None] + e[None, :], mask=passing)
        tl.store(target[:, None] + e[None, :], rest.to(target.dtype.element_ty), mask=passing)
