"""`Batch`: N sequences packed into one row of ids, with the positions that softmax attention rotates by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minimax_m1.kernels.segments import Segments
from minimax_m1.model.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The rows of a batch whose outputs are wanted of the last layer: rows [R], and how many each sequence has."""

    rows: Tensor
    segments: Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """ids [T] int64 packed; segments of N sequences; positions [T] int64 (lightning layers do not read them)."""

    ids: Tensor
    segments: Segments
    positions: Tensor

    def tail(self, counts: Sequence[int]) -> Tail:
        """The last `counts[n]` rows of each sequence n; it must bring as many tokens."""
        stops = zip(self.segments.cu_seqlens[1:], self.segments.lengths, counts, strict=True)
        rows = [np.zeros(0, np.int64)]
        for stop, length, count in stops:
            assert 0 <= count <= length, "a sequence without tokens has no last token"
            rows.append(np.arange(stop - count, stop))
        return Tail(rows=torch.from_numpy(np.concatenate(rows)).to(self.ids.device), segments=Segments.of(list(counts)))

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], state: State, device: torch.device | str = "cpu") -> Self:
        """Packs new ids of each sequence; positions continue from the state's lengths."""
        segments = Segments.of([len(ids) for ids in sequences])
        return cls(
            # Through numpy, which reads a list six times as fast.
            ids=torch.from_numpy(np.array([*chain.from_iterable(sequences)], np.int64)).to(device),
            segments=segments,
            positions=follow(state.lengths, segments, device),
        )


def follow(starts: Sequence[int], segments: Segments, device: torch.device | str) -> Tensor:
    """Positions [T] that count on from each sequence's start."""
    ranges = [np.arange(start, start + n) for start, n in zip(starts, segments.lengths, strict=True)]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *ranges])).to(device)
