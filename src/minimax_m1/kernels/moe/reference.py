"""Mixture of experts said plainly: every expert runs on every token, the weights pick.

In: x [T, M]; experts and weights [T, K] from route.py; w13 [E, 2F, M] (gate rows, then up rows); w2 [E, M, F].
Out: [T, M]. Expert e is w2( silu(w1 x) * w3 x ). Weights may be int8 or fp8 with scales, and then
have no gradient.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.fp8 import Fp8
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.scaled import dense


def moe(x: Tensor, experts: Tensor, weights: Tensor, w13: Tensor | Int8 | Fp8, w2: Tensor | Int8 | Fp8) -> Tensor:
    """Weighted sum of the chosen experts; differentiable in x, weights, w13 and w2."""
    out = x.new_zeros(x.shape)
    for expert in range(len(w13)):
        gate, up = (x @ dense(w13[expert], x.dtype).T).chunk(2, -1)
        share = (weights * (experts == expert)).sum(-1, keepdim=True).to(x.dtype)
        out = out + share * ((silu(gate) * up) @ dense(w2[expert], x.dtype).T)
    return out
