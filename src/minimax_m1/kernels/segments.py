"""Where each sequence of a packed batch begins and ends, and the tables that follow from it.

In: `cu_seqlens` [N+1]. Out: lengths; for a block size the gather tables of chunked kernels; the sequences of one token
apart from the others. All are computed once a batch and shared by its layers. A sequence may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Sequences cut into blocks of `size` tokens, ordered so that a scan over blocks is a scan over slices.

    Blocks are sorted by level (first blocks of all sequences, then second blocks, ...), and within a level by
    `order`, the sequences from longest to shortest; the sequences that reach a level are a prefix of `order`.
    """

    size: int
    gather: Tensor | None  # [NB * B] packed row of each block row, T where it is padding; None: rows are in place
    scatter: Tensor | None  # [T] block row of each packed row; None: rows are in place
    padding: Tensor  # [P] block rows that are no packed row's
    lengths: Tensor  # [NB] real tokens in each block
    order: Tensor  # [N] sequence of each rank
    levels: tuple[tuple[int, int], ...]  # (first block, blocks) of each level


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some sequences of a batch, in order: their rows and their numbers, as slices where they lie side by side."""

    rows: slice | Tensor  # int64 [rows of the part]
    sequences: slice | Tensor  # int64 [sequences of the part]
    segments: Segments


@dataclass(frozen=True, slots=True)
class Segments:
    """Boundaries of N packed sequences: sequence n holds rows cu_seqlens[n] to cu_seqlens[n+1]."""

    cu_seqlens: tuple[int, ...]
    _blocks: dict[tuple[int, torch.device], Blocks] = field(default_factory=dict, compare=False, repr=False)
    _parts: dict[torch.device, list[Part]] = field(default_factory=dict, compare=False, repr=False)
    _starts: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)
    _pieces: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.cu_seqlens[0] == 0 and all(a <= b for a, b in pairwise(self.cu_seqlens)), self.cu_seqlens

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Segments of the given lengths [N]."""
        return cls((0, *accumulate(lengths)))

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def total(self) -> int:
        """T, the number of packed rows."""
        return self.cu_seqlens[-1]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, [N]."""
        return [stop - start for start, stop in pairwise(self.cu_seqlens)]

    @property
    def single_tokens(self) -> bool:
        """True where every sequence brings exactly one token, as in a decode step."""
        return self.total == len(self) and all(n == 1 for n in self.lengths)

    def blocks(self, size: int, device: torch.device) -> Blocks:
        """The block table for one block size, kept for the layers that ask again."""
        key = (size, device)
        if key not in self._blocks:
            self._blocks[key] = _cut(self, size, device)
        return self._blocks[key]

    def starts(self, device: torch.device) -> Tensor:
        """`cu_seqlens` as libraries' kernels take it, int32 [N+1]."""
        if device not in self._starts:
            self._starts[device] = torch.tensor(self.cu_seqlens, dtype=torch.int32).to(device)
        return self._starts[device]

    def parts(self, device: torch.device) -> list[Part]:
        """The sequences that bring exactly one token, then the others; empty where all are of one kind."""
        if device not in self._parts:
            both: tuple[list[int], list[int]] = ([], [])
            for n, length in enumerate(self.lengths):
                both[length != 1].append(n)
            self._parts[device] = [_part(self, numbers, device) for numbers in both] if all(both) else []
        return self._parts[device]

    def pieces(self, longest: int, device: torch.device) -> Tensor:
        """The sequences cut into pieces of `longest` tokens, the last one shorter, for kernels that scan: int64 [P, 6].

        A row is a sequence, its first token and how many it has; the number of its first piece, how many it has and
        which of them this is. Longer pieces stand first, so that they start first; one of no tokens is a piece too.
        """
        key = (longest, device)
        if key not in self._pieces:
            rows: list[tuple[int, ...]] = []
            for n, (start, stop) in enumerate(pairwise(self.cu_seqlens)):
                first, count = len(rows), max(1, -(-(stop - start) // longest))
                rows += [(n, start, stop - start, first, count, rank) for rank in range(count)]
            rows.sort(key=lambda row: -min(row[2] - row[5] * longest, longest))
            self._pieces[key] = torch.tensor(rows, dtype=torch.int64).to(device)
        return self._pieces[key]


def _part(segments: Segments, numbers: list[int], device: torch.device) -> Part:
    edges, first, last = segments.cu_seqlens, numbers[0], numbers[-1]
    rows: slice | Tensor = slice(edges[first], edges[last + 1])
    sequences: slice | Tensor = slice(first, last + 1)
    if last - first != len(numbers) - 1:
        rows = torch.cat([torch.arange(edges[n], edges[n + 1]) for n in numbers]).to(device)
        sequences = torch.tensor(numbers, device=device)
    return Part(rows=rows, sequences=sequences, segments=Segments.of([edges[n + 1] - edges[n] for n in numbers]))


def _cut(segments: Segments, size: int, device: torch.device) -> Blocks:
    lengths = torch.tensor(segments.lengths)
    starts = torch.tensor(segments.cu_seqlens[:-1])
    order = torch.argsort(lengths, descending=True, stable=True)
    counts = -(-lengths[order] // size)  # blocks of each rank
    ranks = torch.repeat_interleave(counts)  # [NB] in rank-major order
    levels = torch.arange(len(ranks)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    by_level = torch.argsort(levels, stable=True)
    ranks, levels = ranks[by_level], levels[by_level]
    sequence = order[ranks]
    first = starts[sequence] + levels * size  # [NB] packed row at which each block begins
    real = (lengths[sequence] - levels * size).clamp(max=size)
    sizes = torch.bincount(levels).tolist() if len(levels) else []
    gather = scatter = None
    padding = torch.empty(0, dtype=torch.long)
    if segments.total != len(ranks) * size or not torch.equal(first, torch.arange(len(ranks)) * size):
        within = torch.arange(size)
        rows = first[:, None] + within
        gather = torch.where(within < real[:, None], rows, segments.total).flatten()
        scatter = torch.empty(segments.total + 1, dtype=torch.long)
        scatter[gather] = torch.arange(len(gather))
        padding = (gather == segments.total).nonzero().flatten()
        gather, scatter = gather.to(device), scatter[:-1].to(device)
    return Blocks(
        size=size,
        gather=gather,
        scatter=scatter,
        padding=padding.to(device),
        lengths=real.to(device),
        order=order.to(device),
        levels=tuple(zip(accumulate(sizes, initial=0), sizes, strict=False)),
    )
