"""Running decode: ids one by one -> text that is safe to show.

In: a tokenizer, stop strings, ids. Out: pieces of text whose concatenation is the decoded whole, cut
before the first stop string. Half a character and what may yet become a stop string are held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minimax_m1.errors import RequestError, TokenizerError

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


class TextStream:
    """The text of one reply as its ids arrive.

    The first stop string is the one that is complete first (the longest, where several end together),
    so the text does not depend on how it falls into tokens. Each id costs time in proportion to its
    own text and the stop strings, never to what came before. An id without a token, which a model
    with a padded vocabulary can produce, shows as U+FFFD.

    Raises:
        RequestError: a stop string is empty (`param` "stop").
    """

    def __init__(
        self, tokenizer: MiniMaxM1Tokenizer, *, stop: str | Sequence[str] = (), skip_special_tokens: bool = True
    ) -> None:
        self._stops = (stop,) if isinstance(stop, str) and stop else tuple(stop)
        if not all(self._stops):
            raise RequestError("a stop string must hold at least one character, got an empty one", param="stop")
        self._longest = max(map(len, self._stops), default=0)
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        self.stop_string: str | None = None  # the one that ended the text

    def push(self, id: int) -> str:
        """New text after one more id, perhaps none; nothing once a stop string has come."""
        try:
            data = self._tokenizer.token_bytes(id, skip_special_tokens=self._skip)
        except TokenizerError:
            data = "\ufffd".encode()
        return self._take(self._characters.decode(data))

    def finish(self) -> str:
        """The rest: what was held back and does not belong to a stop string."""
        text = self._take(self._characters.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _take(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        text = self._held + new
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            _, start, self.stop_string = min(found)
            self.stopped, self._held = True, ""
            return text[:start]
        keep = self._open_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _open_end(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
