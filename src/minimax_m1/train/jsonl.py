"""`JsonlSource`: the user's own JSONL files as an endless source of documents.

In: files (the kinds of line are in `kinds`), a tokenizer, a seed. Out: documents, each epoch in an order of its own.
"""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from pathlib import Path

from minimax_m1.errors import DataError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.document import Document, skipped_positions
from minimax_m1.train.kinds import encode_line, read_line
from minimax_m1.train.shuffled import ShuffledLines


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
        self._tokenizer, self._seed, self._max_position = tokenizer, seed, max_position
        self._lines = ShuffledLines(files, f"{seed}/{name}", skip)

    @property
    def lines(self) -> int:
        """Lines of one epoch, which are as many draws."""
        return len(self._lines)

    def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
        """A line's documents; a plain text gives several where it is longer than `length`.

        `difficulty` means nothing here. Raises DataError naming the line: it has changed, or a conversation in it is
        longer than `length`.
        """
        where, raw = self._lines.read(index)
        rng = random.Random(f"{self._seed}/{self.name}/{index}")
        try:
            texts = encode_line(read_line(raw), self._tokenizer, length)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        return [
            Document(ids=ids, said=said, positions=skipped_positions(len(ids), self._max_position, rng), place=where)
            for ids, said in texts
        ]
