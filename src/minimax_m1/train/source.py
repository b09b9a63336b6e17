"""`Source`: where documents come from; a task family, the user's own files, or anything else that can be numbered.

In: the number of a draw. Out: its documents. Since a draw depends on its number alone, a run's place in its data is
a few counts, and ranks share a source by taking numbers in turn.
"""

from __future__ import annotations

from typing import Protocol

from minimax_m1.train.document import Document


class Source(Protocol):
    """An endless, numbered supply of documents."""

    @property
    def name(self) -> str:
        """What shares and messages call it."""

    def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
        """The documents, at least one, of draw number `index` (0, 1, ...): the same whatever was drawn before.

        `difficulty` is the most, 1 to 10; `length` the most tokens of a document. Raises DataError where the draw's
        data cannot be used.
        """
