"""Keys and values in pages of one pool: which pages each sequence holds, and views of its rows.

In: a pool [P, B, G, D] of P pages of B tokens, and a `PageTable`. Out: `Paged`, a sequence of tensors [L_n, G, D] as
the attention op takes them: a view where a sequence's pages lie side by side, else a copy; kernels that can follow a
table read the pool itself. Who holds which page is decided elsewhere (engine/pages.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.kernels.segments import Segments


@dataclass(frozen=True, slots=True, eq=False)
class PageTable:
    """The pages of N sequences, int64 [pages] each, and how many tokens they hold there; pages of `size` tokens."""

    pages: tuple[NDArray[np.int64], ...]
    lengths: tuple[int, ...]
    size: int
    _places: dict[tuple[tuple[int, ...], torch.device], Tensor] = field(default_factory=dict, repr=False)
    _after: dict[tuple[int, ...], PageTable] = field(default_factory=dict, repr=False)
    _flat: dict[torch.device, tuple[Tensor, tuple[int, ...]]] = field(default_factory=dict, repr=False)
    _blocks: dict[torch.device, BlockTable] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> Self:
        """One sequence's table."""
        return type(self)((self.pages[index],), (self.lengths[index],), self.size)

    def places(self, segments: Segments, device: torch.device) -> Tensor:
        """Where the next tokens go, [T] rows of the pool seen as [P * B]; the pages must be there already."""
        key = (segments.cu_seqlens, device)
        if key not in self._places:
            rows = []
            for pages, start, new in zip(self.pages, self.lengths, segments.lengths, strict=True):
                assert start + new <= len(pages) * self.size, (start, new, len(pages), self.size)
                at = np.arange(start, start + new)
                rows.append(pages[at // self.size] * self.size + at % self.size)
            self._places[key] = torch.from_numpy(np.concatenate(rows)).to(device)
        return self._places[key]

    def after(self, segments: Segments) -> PageTable:
        """The table once each sequence holds its new tokens; one object for all layers."""
        key = segments.cu_seqlens
        if key not in self._after:
            lengths = tuple(old + new for old, new in zip(self.lengths, segments.lengths, strict=True))
            self._after[key] = PageTable(self.pages, lengths, self.size)
        return self._after[key]

    def flat(self, device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
        """For kernels: the pages in use of one sequence after the other, int64, and where each begins there, [N]."""
        if device not in self._flat:
            used = [pages[: -(-length // self.size)] for pages, length in zip(self.pages, self.lengths, strict=True)]
            assert all(len(pages) * self.size >= length for pages, length in zip(used, self.lengths, strict=True))
            pages = torch.from_numpy(np.concatenate(used) if used else np.zeros(0, np.int64))
            firsts = tuple(accumulate(map(len, used), initial=0))[:-1]
            self._flat[device] = (pages.to(device), firsts)
        return self._flat[device]

    def blocks(self, device: torch.device) -> BlockTable:
        """For kernels that read tables on a GPU: the pages in use, as wide as the longest sequence has them."""
        if device not in self._blocks:
            counts = [-(-length // self.size) for length in self.lengths]
            both = np.zeros((len(counts), 1 + max(counts, default=0)), np.int32)  # lengths, then pages: one copy
            both[:, 0] = self.lengths
            for row, pages, count in zip(both, self.pages, counts, strict=True):
                assert len(pages) >= count, (len(pages), count)
                row[1 : count + 1] = pages[:count]
            held = torch.from_numpy(both).to(device)
            self._blocks[device] = BlockTable(held[:, 1:].contiguous(), held[:, 0].contiguous())
        return self._blocks[device]


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """A `PageTable` as a GPU reads it, on the pool's device: pages [N, most] int32, and lengths [N] int32, the tokens
    that each sequence holds. A length of 0 is nobody's, in a row that only fills a batch up."""

    pages: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Paged(Sequence[Tensor]):
    """The keys, or the values, of N sequences: pool [P, B, G, D] and who holds what of it."""

    pool: Tensor
    table: PageTable

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        length = self.table.lengths[index]
        pages = self.table.pages[index][: -(-length // self.table.size)]
        if len(pages) == 0:
            return self.pool.new_empty(0, *self.pool.shape[2:])
        first = int(pages[0])
        if pages[-1] - first == len(pages) - 1 and (np.diff(pages) == 1).all():
            held = self.pool[first : first + len(pages)]
        else:
            held = self.pool[torch.from_numpy(pages).to(self.pool.device)]
        return held.flatten(0, 1)[:length]
