"""`Ops`: the frozen record of callables that a model runs on.

`Ops.reference()` is the plain and slow truth, `Ops.torch()` the fast path on any device, `Ops.cpu()` the same with
compiled decode steps for a CPU, `Ops.triton()` what is made for GPUs. Swap one op with `dataclasses.replace(ops,
moe=...)`. Nothing is chosen behind the caller's back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Protocol, Self

from torch import Tensor
from torch import device as Device

from minimax_m1.errors import ConfigError
from minimax_m1.kernels.attention.reference import attention as attention_reference
from minimax_m1.kernels.attention.torch import attention as attention_torch
from minimax_m1.kernels.head.reference import Scores
from minimax_m1.kernels.head.reference import logprobs as head_reference
from minimax_m1.kernels.head.torch import logprobs as head_torch
from minimax_m1.kernels.layer.parts import Parts, Past, Step
from minimax_m1.kernels.lightning.reference import lightning as lightning_reference
from minimax_m1.kernels.lightning.torch import lightning as lightning_torch
from minimax_m1.kernels.linear.reference import linear as linear_reference
from minimax_m1.kernels.linear.torch import linear as linear_torch
from minimax_m1.kernels.moe.reference import moe as moe_reference
from minimax_m1.kernels.moe.torch import moe as moe_torch
from minimax_m1.kernels.norm import reference as norm_reference
from minimax_m1.kernels.norm import torch as norm_torch
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.rope.reference import rope
from minimax_m1.kernels.segments import Segments


class Lightning(Protocol):
    """q, k, v [T, H, D], slopes [H], segments, states [N, H, D, D] -> [T, H, D], states."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, segments: Segments, states: Tensor, /
    ) -> tuple[Tensor, Tensor]: ...


class Attention(Protocol):
    """q [T, H, D], keys and values N times [L_n, G, D], segments -> [T, H, D]."""

    def __call__(
        self, q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Segments, /
    ) -> Tensor: ...


class MoE(Protocol):
    """x [T, M], experts [T, K], weights [T, K], w13 [E, 2F, M], w2 [E, M, F] -> [T, M]."""

    def __call__(
        self, x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8, w2: Tensor | Int8, /
    ) -> Tensor: ...


class LinearMap(Protocol):
    """x [..., in], weight [out, in], int8 or a dtype no wider than x's -> [..., out] in x's dtype."""

    def __call__(self, x: Tensor, weight: Tensor | Int8, /) -> Tensor: ...


class Norm(Protocol):
    """x [..., M], weight [M], eps -> [..., M]."""

    def __call__(self, x: Tensor, weight: Tensor, eps: float, /) -> Tensor: ...


class AddNorm(Protocol):
    """residual and branch [..., M], alpha, beta, weight [M], eps -> their sum alpha r + beta b, and that normed."""

    def __call__(
        self, residual: Tensor, branch: Tensor, alpha: float, beta: float, weight: Tensor, eps: float, /
    ) -> tuple[Tensor, Tensor]: ...


class GatedNorm(Protocol):
    """x and gate [..., M], weight [M], eps -> x normed, times sigmoid(gate)."""

    def __call__(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float, /) -> Tensor: ...


class Rope(Protocol):
    """x [T, H, D], cos and sin [T, 1, R/2] -> [T, H, D]."""

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, /) -> Tensor: ...


class Head(Protocol):
    """x [R, M], weight [V, M], targets [R] -> log-prob of each target, entropy, whether it is the likeliest; [R]."""

    def __call__(self, x: Tensor, weight: Tensor, targets: Tensor, /) -> Scores: ...


class Layer(Protocol):
    """x [N, M], one token a sequence; a layer's parts; its past; thresholds -> the whole layer's step.
    None: not for these, take the ops one by one."""

    def __call__(self, x: Tensor, parts: Parts, past: Past, threshold: Tensor | float, /) -> Step | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """One callable for each op of the architecture; `layer`, where there is one, does a decode step of them all."""

    lightning: Lightning
    attention: Attention
    moe: MoE
    norm: Norm
    add_norm: AddNorm
    gated_norm: GatedNorm
    rope: Rope
    linear: LinearMap
    head: Head
    name: str
    layer: Layer | None = None

    @classmethod
    def reference(cls) -> Self:
        """Plain, slow, float64-able."""
        return cls(
            lightning=lightning_reference,
            attention=attention_reference,
            moe=moe_reference,
            norm=norm_reference.rms_norm,
            add_norm=norm_reference.add_rms_norm,
            gated_norm=norm_reference.gated_rms_norm,
            rope=rope,
            linear=linear_reference,
            head=head_reference,
            name="reference",
        )

    @classmethod
    def torch(cls) -> Self:
        """Fast on any device torch knows; rotation is memory-bound and has one form."""
        return cls(
            lightning=lightning_torch,
            attention=attention_torch,
            moe=moe_torch,
            norm=norm_torch.rms_norm,
            add_norm=norm_torch.add_rms_norm,
            gated_norm=norm_torch.gated_rms_norm,
            rope=rope,
            linear=linear_torch,
            head=head_torch,
            name="torch",
        )

    @classmethod
    def cpu(cls) -> Ops:
        """As `torch`, but steps of a few tokens in float32 or bfloat16 run compiled, at the speed of memory.

        Compiles on the first call, which takes seconds, or hardly any where numba finds its cache of an earlier run;
        later calls return the same. Without an OpenMP to run on, as outside Linux, this is an error of ours: ask
        `fastest`.
        """
        return _compiled()

    @classmethod
    def triton(cls) -> Ops:
        """Kernels for GPUs, training included, in float32, bfloat16 and float16.

        CPU tensors need Triton's interpreter: TRITON_INTERPRET=1 in the environment before anything loads Triton.
        Dense products and attention over many queries are libraries' (kernels/linear, kernels/attention).

        Raises:
            ConfigError: Triton is not installed.
        """
        return _triton()

    @classmethod
    def default(cls, device: Device) -> Ops:
        """What a model has that may train: `triton` on CUDA, else `torch`, since compiled steps know no gradients."""
        return cls.triton() if device.type == "cuda" else cls.torch()

    @classmethod
    def fastest(cls, device: Device) -> Ops:
        """What an engine runs on a device: `cpu` on a CPU where it can be, else the default. `name` tells which."""
        return cls.cpu() if device.type == "cpu" and sys.platform == "linux" else cls.default(device)


@cache
def _compiled() -> Ops:
    from minimax_m1.kernels.attention.cpu import compile_attention
    from minimax_m1.kernels.layer.cpu import compile_layer
    from minimax_m1.kernels.lightning.cpu import compile_lightning
    from minimax_m1.kernels.linear.cpu import compile_linear
    from minimax_m1.kernels.moe.cpu import compile_moe
    from minimax_m1.kernels.norm.cpu import compile_norms

    norm, add_norm, gated_norm = compile_norms()
    return replace(
        Ops.torch(),
        attention=compile_attention(),
        layer=compile_layer(),
        lightning=compile_lightning(),
        linear=compile_linear(),
        moe=compile_moe(),
        norm=norm,
        add_norm=add_norm,
        gated_norm=gated_norm,
        name="cpu (numba)",
    )


@cache
def _triton() -> Ops:
    if find_spec("triton") is None:
        raise ConfigError("kernels for GPUs need Triton, which is not installed: pip install 'minimax-m1[gpu]'")
    from minimax_m1.kernels.attention.triton import attention
    from minimax_m1.kernels.head.triton import logprobs
    from minimax_m1.kernels.layer.triton import layer
    from minimax_m1.kernels.lightning.triton import lightning
    from minimax_m1.kernels.linear.triton import linear
    from minimax_m1.kernels.moe.triton import moe
    from minimax_m1.kernels.norm.triton import add_rms_norm, gated_rms_norm, rms_norm
    from minimax_m1.kernels.rope.triton import rope as rotate

    return Ops(
        lightning=lightning,
        attention=attention,
        moe=moe,
        norm=rms_norm,
        add_norm=add_rms_norm,
        gated_norm=gated_rms_norm,
        rope=rotate,
        linear=linear,
        head=logprobs,
        layer=layer,
        name="triton",
    )
