"""Guides over ids for an answer, the part of a reply that comes after any thought.

In: a lexicon, a matcher at its start, a tag. Out: `GrammarGuide`, which holds the whole answer to a grammar, and
`CallGuide`, which lets any text be and holds blocks of calls to one. `AnswerGuide` is what both can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from minimax_m1.errors import RequestError
from minimax_m1.text.lexicon import Lexicon, Tag, written


class AnswerGuide(Protocol):
    """Says which ids may come; `forced`, `mask` and `accept` are those of the engine's `Guide`."""

    def forced(self) -> Sequence[int]:
        """The ids that must come next, in order; empty where there is a choice."""
        ...

    def mask(self) -> NDArray[np.bool_] | None:
        """[V], True where an id may come next, None where any may; raises RequestError where none can."""
        ...

    def allows(self, id: int) -> bool:
        """Whether this id may come next."""
        ...

    def accept(self, id: int) -> bool:
        """Takes the next id; True ends the answer with it. Raises RequestError where it may not come."""
        ...

    def reset(self) -> None:
        """Goes back to the start of the answer."""
        ...


class GrammarGuide:
    """Holds an answer to a grammar; end-of-sentence may come exactly where the answer may end."""

    def __init__(self, lexicon: Lexicon, matcher: LLMatcher) -> None:
        self._lexicon = lexicon
        self._matcher = matcher

    def forced(self) -> Sequence[int]:
        """Ids of text that the grammar leaves no choice about, as far as their borders are certain."""
        return self._matcher.compute_ff_tokens()

    def mask(self) -> NDArray[np.bool_]:
        """[V]; raises RequestError where the grammar has become too much for one step."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._lexicon.vocab_size, bitorder="little").view(np.bool_)
        if self._matcher.is_error() or not mask.any():
            raise self._lost("no token can go on with it")
        return mask

    def allows(self, id: int) -> bool:
        """Whether this id may come next."""
        return self._matcher.validate_tokens([id]) == 1

    def accept(self, id: int) -> bool:
        """Takes the next id; True where only the end may follow, or where this is the end."""
        if not self._matcher.consume_token(id):
            raise self._lost(f"token {id} does not follow it")
        return self._matcher.is_stopped()

    def reset(self) -> None:
        """Goes back to the start of the answer."""
        self._matcher.reset()

    def _lost(self, reason: str) -> RequestError:
        return RequestError(f"the form of this reply was lost: {reason}", param="structured_outputs")


class CallGuide:
    """Lets any text be until `tag` is written, by whatever ids; then `calls` says what comes, and ends the answer.

    `calls` begins right after the tag, so an id that writes the tag's end and more may not come.
    """

    def __init__(self, lexicon: Lexicon, tag: Tag, calls: GrammarGuide) -> None:
        self._lexicon = lexicon
        self._tag = tag
        self._calls = calls
        self._free = [~overrun if overrun.any() else None for overrun in tag.overrun]
        self._open = False
        self._written = b""  # the end of the text that may yet become the tag

    def forced(self) -> Sequence[int]:
        """What the format of calls leaves no choice about."""
        return self._calls.forced() if self._open else ()

    def mask(self) -> NDArray[np.bool_] | None:
        """[V], or None in free text."""
        if self._open:
            return self._calls.mask()
        return self._free[len(self._written)]

    def allows(self, id: int) -> bool:
        """Whether this id may come next."""
        return self._calls.allows(id) if self._open else not self._tag.overrun[len(self._written), id]

    def accept(self, id: int) -> bool:
        """Takes the next id; True with the end of the block."""
        if self._open:
            return self._calls.accept(id)
        text = self._written + self._lexicon.spelled(id)
        _, tag, after = text.partition(self._tag.name)
        if after:
            raise RequestError(f"token {id} goes past the end of {self._tag.name.decode()}", param="tools")
        self._open = bool(tag)
        self._written = text[len(text) - written(self._tag.name, text) :]
        return False

    def reset(self) -> None:
        """Goes back to the start of the answer."""
        self._calls.reset()
        self._open, self._written = False, b""
