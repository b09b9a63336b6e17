"""`Slots`: the lightning states of N sequences where they lie in one pool, for kernels that write them in place.

In: a pool [S, H, D, D], float32, and which slot each sequence of a batch has. Who holds which slot is decided elsewhere
(engine/scheduler.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """pool [S, H, D, D] and index [N] int32 on its device; -1 is nobody's, in a row that only fills a batch up.

    `arrived`, int32 zeros [N or more], is where kernels count and leave zeros again: one for all layers saves each its
    own.
    """

    pool: Tensor
    index: Tensor
    arrived: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)
