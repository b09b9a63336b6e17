"""`PageAllocator`: which pages of the pool are held, and by how many. Integers only.

Sequences and cached prefixes hold pages together; a page is free again once nobody holds it. Holders that would let
go if somebody needed the page say `cached`, so that it is known at any time how many pages could be had.
"""

from __future__ import annotations

from collections.abc import Iterable


class PageAllocator:
    """`count` pages of `size` tokens, numbered from 0."""

    def __init__(self, count: int, size: int) -> None:
        assert count > 0 and size > 0
        self.size = size
        self._holders = [0] * count
        self._cached = [0] * count  # those holders that would let go
        self._free = bytearray(b"\1" * count)  # 1 where nobody holds the page: `find` looks for runs at C speed
        self._left = count
        self._spare = 0  # pages held only by those who would let go

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return self._left

    @property
    def available(self) -> int:
        """Pages that are free, or would be if every cached hold were dropped."""
        return self._left + self._spare

    def covering(self, tokens: int) -> int:
        """Pages that so many tokens take."""
        return -(-tokens // self.size)

    def take(self, count: int, after: int = -1) -> list[int]:
        """Takes free pages, side by side where there is such a run, behind the page `after` where that is free.

        A sequence whose pages lie side by side is read without a copy. There must be `count` free pages.
        """
        assert 0 <= count <= self._left, (count, self._left)
        run = b"\1" * count
        first = after + 1 if self._free.startswith(run, after + 1) else self._free.find(run)
        pages = list(range(first, first + count)) if first >= 0 else self._lowest(count)
        for page in pages:
            assert self._holders[page] == 0
            self._holders[page] = 1
            self._free[page] = 0
        self._left -= count
        return pages

    def share(self, pages: Iterable[int], *, cached: bool = False) -> None:
        """One more holder for each of these held pages."""
        for page in pages:
            assert self._holders[page] > 0, f"page {page} is free"
            self._spare -= not cached and self._holders[page] == self._cached[page]
            self._holders[page] += 1
            self._cached[page] += cached

    def drop(self, pages: Iterable[int], *, cached: bool = False) -> None:
        """One holder less for each."""
        for page in pages:
            assert self._holders[page] > 0, f"page {page} is free already"
            self._spare -= self._holders[page] == self._cached[page]
            self._holders[page] -= 1
            self._cached[page] -= cached
            assert 0 <= self._cached[page] <= self._holders[page], f"page {page} was dropped by the wrong holder"
            if self._holders[page] == 0:
                self._free[page] = 1
                self._left += 1
            else:
                self._spare += self._holders[page] == self._cached[page]

    def _lowest(self, count: int) -> list[int]:
        pages, page = [], -1
        for _ in range(count):
            page = self._free.index(1, page + 1)
            pages.append(page)
        return pages
