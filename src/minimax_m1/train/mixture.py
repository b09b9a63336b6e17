"""`Mixture`: sources dealt out in their shares of tokens, in batches filled without cutting a document.

In: sources, their shares, which rank of how many this is. Out: lists of documents, and the whole position as a few
counts (`state`), so that a run resumes to the token. Rank r of world W draws numbers r, r + W, ... of every source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from minimax_m1.errors import DataError
from minimax_m1.train.document import Document
from minimax_m1.train.source import Source

_CHOICE = 64  # waiting documents to choose among, all sources together: enough to find one for nearly every gap
_LEAST = 6  # of them, of a source that is asked


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """A drawn document, how to draw it again, and whether a batch had too little room left for it."""

    number: int  # among all that were drawn
    source: str
    index: int
    which: int  # of the draw's documents
    difficulty: int
    length: int
    passed: bool
    document: Document

    @property
    def size(self) -> int:
        return len(self.document.ids)


class Mixture:
    """Best-fit packing over queues of waiting documents, one of each source.

    A batch goes to the source that is furthest behind its share, which gives its oldest document, or where that does
    not fit its longest one that does. A document that was passed over opens one of the next batches, so none starves.
    Where a later phase has smaller batches, documents that waited and are longer than those are lost.
    """

    def __init__(
        self, sources: Sequence[Source], shares: Mapping[str, float], *, rank: int = 0, world: int = 1
    ) -> None:
        """`shares` of tokens by name of source, summing to 1; raises DataError where they do not fit the sources."""
        assert 0 <= rank < world
        self._sources = {source.name: source for source in sources}
        assert len(self._sources) == len(sources), "two sources share a name"
        if shares.keys() != self._sources.keys():
            raise DataError(f"shares are of {_names(shares)}, sources are {_names(self._sources)}")
        if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) < 0:
            raise DataError(f"shares must be 0 or more and sum to 1, got {dict(shares)}")
        self._shares = {name: share for name, share in shares.items() if share > 0}
        self._rank, self._world = rank, world
        self._choice = max(_LEAST, _CHOICE // len(self._shares))
        self._draws = dict.fromkeys(self._shares, 0)
        self._tokens = dict.fromkeys(self._shares, 0)
        self._waiting: dict[str, deque[_Waiting]] = {name: deque() for name in self._shares}
        self._number = 0  # of the next document that is drawn

    def batch(self, capacity: int, difficulty: int, length: int) -> list[Document]:
        """Documents of at most `capacity` tokens together; `difficulty` and `length` are the most of a document.

        Raises DataError where a source's data cannot be used.
        """
        assert 1 <= length <= capacity, f"a document of {length} tokens does not fit into {capacity}"
        for name, queue in self._waiting.items():
            self._waiting[name] = deque(waiting for waiting in queue if waiting.size <= capacity)
        taken, room = [], capacity
        late = [queue[0] for queue in self._waiting.values() if queue and queue[0].passed]
        chosen = min(late, key=lambda waiting: waiting.number, default=None)
        while chosen is not None or (chosen := self._next(room, difficulty, length)) is not None:
            self._waiting[chosen.source].remove(chosen)
            self._tokens[chosen.source] += chosen.size
            room -= chosen.size
            taken.append(chosen.document)
            chosen = None
        return taken

    def _next(self, room: int, difficulty: int, length: int) -> _Waiting | None:
        """The document that comes next into so much room, or None where nothing that waits fits."""
        total = sum(self._tokens.values())
        behind = {name: self._tokens[name] - share * (total + 1) for name, share in self._shares.items()}
        for place, name in enumerate(sorted(behind, key=behind.__getitem__)):
            self._fill(name, difficulty, length)
            queue = self._waiting[name]
            if queue[0].size <= room:  # nearly always, so that a line of thousands of windows is seldom searched
                return queue[0]
            queue[0].passed |= place == 0  # only the source whose turn it is has a claim on the next batch
            if fitting := [waiting for waiting in queue if waiting.size <= room]:
                return max(fitting, key=lambda waiting: waiting.size)
        return None

    def _fill(self, name: str, difficulty: int, length: int) -> None:
        """Draws from a source until a good choice waits."""
        while len(self._waiting[name]) < self._choice:
            index = self._rank + self._world * self._draws[name]
            self._draws[name] += 1
            documents = self._sources[name].draw(index, difficulty, length)
            assert documents and all(1 <= len(document.ids) <= length for document in documents)
            for which, document in enumerate(documents):
                self._wait(name, index, which, difficulty, length, document)

    def _wait(
        self,
        source: str,
        index: int,
        which: int,
        difficulty: int,
        length: int,
        document: Document,
        passed: bool = False,
    ) -> None:
        """Puts a document at the end of its source's queue."""
        waiting = _Waiting(
            number=self._number,
            source=source,
            index=index,
            which=which,
            difficulty=difficulty,
            length=length,
            passed=passed,
            document=document,
        )
        self._number += 1
        self._waiting[source].append(waiting)

    # The position ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON values from which `load` goes on: draws and tokens by source, and what waits, to be drawn again."""
        waiting = sorted(chain.from_iterable(self._waiting.values()), key=lambda each: each.number)
        pool = [[w.source, w.index, w.which, w.difficulty, w.length, w.passed, w.document.place] for w in waiting]
        return {
            "rank": self._rank,
            "world": self._world,
            "draws": dict(self._draws),
            "tokens": dict(self._tokens),
            "pool": pool,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken: the same batches follow.

        Raises DataError where it is of another mixture, or files have changed so that other documents would follow.
        """
        if state["draws"].keys() != self._draws.keys():
            raise DataError(f"the checkpoint mixes {_names(state['draws'])}, this run {_names(self._draws)}")
        if (state["rank"], state["world"]) != (self._rank, self._world):
            raise DataError(
                f"the checkpoint is of rank {state['rank']} of {state['world']}, this is {self._rank} of {self._world}"
            )
        self._draws, self._tokens = dict(state["draws"]), dict(state["tokens"])
        drawn: dict[tuple[str, int, int, int], list[Document]] = {}
        self._waiting, self._number = {name: deque() for name in self._shares}, 0
        for source, index, which, difficulty, length, passed, place in state["pool"]:
            key = (source, index, difficulty, length)
            if key not in drawn:
                drawn[key] = self._sources[source].draw(index, difficulty, length)
            again = drawn[key][which] if which < len(drawn[key]) else None
            if again is None or again.place != place:
                now = "nothing" if again is None else again.place
                raise DataError(
                    f"draw {index} of {source} was {place} at the checkpoint and is {now}: the data changed; "
                    "a run of its own can go on from the weights: --start FOLDER"
                )
            self._wait(source, index, which, difficulty, length, again, passed)


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
