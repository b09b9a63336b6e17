"""A guide for replies that may begin with a thought: it gives the thought a budget and the answer its form.

In: a lexicon, the guide of the answer if there is one, the most tokens of a thought if there is a most.
Out: `ThinkingGuide`. It knows thoughts as `ReplyParser` does: by `<think>` at the head of the text, up to `</think>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from minimax_m1.errors import RequestError
from minimax_m1.text.answer import AnswerGuide
from minimax_m1.text.lexicon import Lexicon, written
from minimax_m1.text.vocabulary import THINK, THINK_END

_OPEN, _CLOSE = THINK.encode(), THINK_END.encode()
_GAP = "\n\n"  # stands between a thought and its answer and belongs to neither


class _Place(Enum):
    HEAD = "head"  # nothing yet that tells a thought from an answer
    THOUGHT = "thought"
    BORDER = "border"  # only the ids in `_due` may come
    ANSWER = "answer"


class ThinkingGuide:
    """One reply's guide.

    - At the head either the answer or `<think>` may come. Inside a thought any text may come, tool tags and all.
    - After `budget` tokens the thought is closed as the model would close it, less what of that is written already.
    - Where an answer is guided, end-of-sentence may not come inside a thought, `</think>` is the end of its id,
      and the two line breaks after it are forced, so that the answer begins with an id of its own.
    """

    def __init__(self, lexicon: Lexicon, answer: AnswerGuide | None, budget: int | None) -> None:
        self._lexicon = lexicon
        self._answer = answer
        self._budget = budget
        # Of a large vocabulary these take a while, which the engine's thread should not spend.
        self._begun = lexicon.begun if answer else ()
        self._inside = lexicon.inside if answer else ()
        self._closing = lexicon.ids("\n" + THINK_END + _GAP)
        self._place = _Place.HEAD
        self._text = b""  # at the head all of it, in a thought what may yet become its end
        self._answers = True  # at the head: whether the text so far may begin an answer
        self._thought: list[int] = []  # its ids so far
        self._due: list[int] = []

    def forced(self) -> Sequence[int]:
        """The end of a thought whose budget is spent, or what the answer's guide forces."""
        if self._place is _Place.BORDER:
            return tuple(self._due)
        return self._answer.forced() if self._answer and self._place is _Place.ANSWER else ()

    def mask(self) -> NDArray[np.bool_] | None:
        """[V], or None where any id may come."""
        if self._place is _Place.BORDER:
            return self._lexicon.only(self._due[0])
        if self._answer is None:
            return None
        if self._place is _Place.ANSWER:
            return self._answer.mask()
        if self._place is _Place.THOUGHT:
            return self._inside[len(self._text)]
        begun = self._begun[len(self._text.lstrip())]
        if not self._answers:
            return begun
        mask = self._answer.mask()
        return None if mask is None else mask | begun

    def accept(self, id: int) -> bool:
        """Takes the next id; True where it ends the reply. Raises RequestError where it may not come."""
        if self._place is _Place.HEAD:
            return self._begin(id)
        if self._place is _Place.THOUGHT:
            self._think(id)
        elif self._place is _Place.BORDER:
            if id != self._due.pop(0):
                raise RequestError(f"token {id} came where the end of the thought was due", param="thinking_budget")
            if not self._due:
                self._place = _Place.ANSWER
        elif self._answer:
            return self._answer.accept(id)
        return False

    def _begin(self, id: int) -> bool:
        self._text += self._lexicon.spelled(id)
        start = self._text.lstrip()
        if start.startswith(_OPEN):
            self._place = _Place.THOUGHT
            self._text = _unclosed(start.removeprefix(_OPEN))
            if self._answer:
                self._answer.reset()
            self._spend()
            return False
        if not _OPEN.startswith(start):
            self._place = _Place.ANSWER
        if self._answer is None:
            return False
        self._answers = self._answers and self._answer.allows(id)
        if self._answers:
            return self._answer.accept(id)
        if self._place is _Place.ANSWER:
            raise RequestError(f"token {id} begins neither a thought nor the answer", param="structured_outputs")
        return False

    def _think(self, id: int) -> None:
        self._thought.append(id)
        text = self._text + self._lexicon.spelled(id)
        _, closed, after = text.partition(_CLOSE)
        if not closed:
            self._text = _unclosed(text)
            self._spend()
        elif self._answer is None:
            self._place = _Place.ANSWER
        elif after:
            raise RequestError(f"token {id} goes past the end of {THINK_END}", param="structured_outputs")
        else:
            self._place, self._due = _Place.BORDER, list(self._lexicon.ids(_GAP))

    def _spend(self) -> None:
        """Closes the thought if its budget is spent."""
        if self._budget is None or len(self._thought) < self._budget:
            return
        closing = list(self._closing)
        done = next(n for n in range(len(closing), -1, -1) if self._thought[len(self._thought) - n :] == closing[:n])
        self._place, self._due = _Place.BORDER, closing[done:]


def _unclosed(text: bytes) -> bytes:
    """The end of a thought's text that may yet become `</think>`."""
    return text[len(text) - written(_CLOSE, text) :]
