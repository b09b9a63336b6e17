"""`ShuffledLines`: the lines of the user's JSONL files, each once an epoch, in an order of its own.

In: files, a seed, and the number of a draw. Out: a line's place and what it says. Only the lines' offsets are in
memory, so files may be larger than it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minimax_m1.errors import DataError
from minimax_m1.train.lines import numbered, place


class ShuffledLines:
    """Lines of all the files together, shuffled by `seed`, a text, and epoch.

    Lines whose place "FILE:LINE" is in `skip` are left out. Raises DataError: a file is missing, a folder, empty or
    cannot be read, or no line is left.
    """

    def __init__(self, files: Sequence[Path], seed: str, skip: Container[str]) -> None:
        self._files, self._seed = tuple(files), seed
        offsets, numbers, ends = array("q"), array("q"), []
        for path in self._files:
            for number, offset, _ in numbered(path):
                if place(path, number) not in skip:
                    offsets.append(offset)
                    numbers.append(number)
            ends.append(len(offsets))
        if not offsets:
            raise DataError(f"{', '.join(map(str, files)) or 'no file'}: there is no line to learn from")
        self._offsets: NDArray[np.int64] = np.asarray(offsets, np.int64)
        self._numbers: NDArray[np.int64] = np.asarray(numbers, np.int64)
        self._ends: NDArray[np.int64] = np.asarray(ends, np.int64)  # lines of the files up to each
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Lines of one epoch, which are as many draws."""
        return len(self._offsets)

    def read(self, index: int) -> tuple[str, bytes]:
        """The place "FILE:LINE" of draw number `index` and its bytes; raises DataError, naming it, where it is gone."""
        epoch, at = divmod(index, len(self))
        line = int(self._order(epoch)[at])
        file = int(np.searchsorted(self._ends, line, side="right"))
        where = place(self._files[file], int(self._numbers[line]))
        try:
            with self._files[file].open("rb") as opened:
                opened.seek(int(self._offsets[line]))
                raw = opened.readline()
        except OSError as error:
            raise DataError(f"{where}: cannot be read any more ({error.strerror})") from None
        if not raw:
            raise DataError(f"{where}: the line is gone: the file has become shorter")
        return where, raw

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """An epoch's order of lines; two are kept, since what waits in a mixture may be of the epoch before."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                del self._orders[min(self._orders)]
            seed = random.Random(f"{self._seed}/epoch {epoch}").getrandbits(64)
            self._orders[epoch] = np.random.default_rng(seed).permutation(len(self))
        return self._orders[epoch]
