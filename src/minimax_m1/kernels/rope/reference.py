"""Rotary position embedding said plainly, on the first R of D head dimensions.

In: positions [T]; x [T, H, D]. Out: rotated x in its own dtype. Dimension i turns with i + R/2 (the half-split
form); frequencies are theta^(-2i/R); angles, tables and the rotation are float32 or better. Tables exist for the
positions at hand only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(positions: Tensor, rotary_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [T, 1, R/2] each, in `dtype` (float32 or better)."""
    powers = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=dtype) / max(rotary_dim, 1)
    angles = positions.to(dtype)[:, None, None] * theta**-powers
    return angles.cos(), angles.sin()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first 2 * cos.shape[-1] dimensions of each head; the others pass through."""
    half = cos.shape[-1]
    if half == 0:
        return x
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), -1)
    first, second = first.to(cos.dtype), second.to(cos.dtype)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((turned.to(x.dtype), rest), -1)


def rotate_and_store(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, places: Tensor
) -> Tensor:
    """q [N, H, D] rotated, one token a sequence; k [N, G, D], rotated, and v [N, G, D] are written to pages.

    keys and values [P, B, G, D]; places [N] are rows of them seen as [P * B], -1 writes nothing.
    """
    key = rope(k, cos, sin)
    for n, place in enumerate(places.tolist()):
        if place >= 0:
            page, within = divmod(place, keys.shape[1])
            keys[page, within], values[page, within] = key[n], v[n]
    return rope(q, cos, sin)
