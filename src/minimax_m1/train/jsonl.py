"""`JsonlSource`: the user's own JSONL files as an endless source of documents.

In: files (the kinds of line are in `kinds`), a tokenizer, a seed. Out: documents, each epoch in an order of its own.
Only the lines' offsets are in memory, so files may be larger than it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minimax_m1.errors import DataError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.document import Document, skipped_positions
from minimax_m1.train.kinds import encode_line, read_line
from minimax_m1.train.lines import numbered, place


class JsonlSource:
    """Lines of all the files together, shuffled by seed and epoch; `max_position` 0 means plain positions.

    Lines whose place "FILE:LINE" is in `skip` are left out. Raises DataError: a file is missing, a folder, empty or
    cannot be read, or no line is left.
    """

    def __init__(
        self,
        files: Sequence[Path],
        tokenizer: MiniMaxM1Tokenizer,
        seed: int,
        max_position: int,
        *,
        name: str = "jsonl",
        skip: Container[str] = frozenset(),
    ) -> None:
        self.name = name
        self._files, self._tokenizer, self._seed, self._max_position = tuple(files), tokenizer, seed, max_position
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

    @property
    def lines(self) -> int:
        """Lines of one epoch, which are as many draws."""
        return len(self._offsets)

    def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
        """A line's documents; a plain text gives several where it is longer than `length`.

        `difficulty` means nothing here. Raises DataError naming the line: it has changed, or a conversation in it is
        longer than `length`.
        """
        epoch, at = divmod(index, self.lines)
        line = int(self._order(epoch)[at])
        file = int(np.searchsorted(self._ends, line, side="right"))
        where = place(self._files[file], int(self._numbers[line]))
        rng = random.Random(f"{self._seed}/{self.name}/{index}")
        try:
            with self._files[file].open("rb") as opened:
                opened.seek(int(self._offsets[line]))
                raw = opened.readline()
            if not raw:
                raise DataError("the line is gone: the file has become shorter")
            texts = encode_line(read_line(raw), self._tokenizer, length)
        except OSError as error:
            raise DataError(f"{where}: cannot be read any more ({error.strerror})") from None
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        return [
            Document(ids=ids, said=said, positions=skipped_positions(len(ids), self._max_position, rng), place=where)
            for ids, said in texts
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """An epoch's order of lines; two are kept, since what waits in a mixture may be of the epoch before."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                del self._orders[min(self._orders)]
            seed = random.Random(f"{self._seed}/{self.name}/epoch {epoch}").getrandbits(64)
            self._orders[epoch] = np.random.default_rng(seed).permutation(self.lines)
        return self._orders[epoch]
