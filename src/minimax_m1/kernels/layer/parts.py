"""What a decoder layer is made of, as the layer op takes it: weights of its mixer and experts, and the past they meet.

In: tensors. Out: frozen records of them; addresses are taken from them at each call, never kept.
M is the model's width, H heads of D numbers, G of them for keys and values, E experts of F numbers, K a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minimax_m1.kernels.pages import BlockTable, Paged
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.slots import Slots


@dataclass(frozen=True, slots=True)
class LightningMixer:
    """qkv [3HD, M] (q, k, v of head 0, then of head 1, ...), gate [HD, M], norm [HD], out [M, HD], slopes [H]."""

    qkv: Tensor | Int8
    gate: Tensor | Int8
    norm: Tensor
    eps: float
    out: Tensor | Int8
    slopes: Tensor


@dataclass(frozen=True, slots=True)
class SoftmaxMixer:
    """q [HD, M], k and v [GD, M], out [M, HD]."""

    q: Tensor | Int8
    k: Tensor | Int8
    v: Tensor | Int8
    out: Tensor | Int8


@dataclass(frozen=True, slots=True)
class Experts:
    """router [E, M] in float32 or better, w13 [E, 2F, M], w2 [E, M, F]; each token goes to `top_k` of them."""

    router: Tensor
    w13: Tensor | Int8
    w2: Tensor | Int8
    top_k: int


@dataclass(frozen=True, slots=True)
class Parts:
    """One layer: n = norm(x); x = alpha r + beta mixer(n); then the same with experts_norm and the experts.

    norms [M]; scales are (alpha, beta) of the mixer and of the experts; r is n itself if `postnorm`, else x.
    """

    norm: Tensor
    experts_norm: Tensor
    eps: float
    mixer: LightningMixer | SoftmaxMixer
    experts: Experts
    postnorm: bool
    mixer_scale: tuple[float, float]
    experts_scale: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Recent:
    """Keys and values of N sequences in pages, each with room for its new token already in its length.

    places [N]: where that token goes, as a row of the pool seen as [P * B]. cos and sin [N, 1, R/2]: its rotation.
    """

    keys: Paged
    values: Paged
    places: Tensor
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Pooled:
    """`Recent` without a word on the host: pools [P, B, G, D], tables and places on their device.

    Places are int64; -1, with a length of 0 in the table, is nobody's, in a row that only fills a batch up.
    """

    keys: Tensor
    values: Tensor
    table: BlockTable
    places: Tensor
    cos: Tensor
    sin: Tensor


Past = Tensor | Slots | Recent | Pooled  # of a lightning layer [N, H, D, D] or in slots, of a softmax layer in pages


@dataclass(frozen=True, slots=True)
class Step:
    """What a layer gives: x [N, M]; states [N, H, D, D] afterwards, None where pages or slots were written in place;
    and the routing: experts [N, K] (-1 dropped), weights [N, K], logits [N, E]."""

    x: Tensor
    states: Tensor | None
    experts: Tensor
    weights: Tensor
    logits: Tensor
