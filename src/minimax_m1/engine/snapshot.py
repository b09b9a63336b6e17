"""`Snapshot`: what a sequence remembers after some tokens, as tensors on the host that nobody else writes to.

The engine makes one where a request asks to be saved; context.py puts it on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state after `stop` tokens, and the keys and values of the tokens from `start` on.

    lightning: one [H, D, D] a lightning layer, float32 or better. keys_values: one [2, stop - start, G, D] a softmax
    layer, keys rotated. A sequence's snapshots follow each other: each starts where the one before stopped.
    """

    start: int
    stop: int
    lightning: tuple[Tensor, ...]
    keys_values: tuple[Tensor, ...]
