"""What every id of a model spells: the ground on which guides stand, built once for a tokenizer.

In: a tokenizer and the model's vocabulary size. Out: `Lexicon`: bytes of ids, llguidance's view of them, and the ids
that write a tag. `Tag`: a name such as `</think>` in running text, whatever ids it is written with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from minimax_m1.errors import TokenizerError
from minimax_m1.text.vocabulary import THINK, THINK_END

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


class Lexicon:
    """Ids and what they spell. `vocab_size` is the model's; ids beyond the tokenizer's have no token.

    Raises:
        TokenizerError: the model has fewer ids than the tokenizer, or the tokenizer names no end of sentence.
    """

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, vocab_size: int) -> None:
        if vocab_size < tokenizer.vocab_size:
            raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} ids, the model only {vocab_size}")
        if tokenizer.eos_token_id is None:
            raise TokenizerError("the tokenizer names no end of sentence, so no reply could be guided to its end")
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_id: int = tokenizer.eos_token_id

    def spelled(self, id: int) -> bytes:
        """The bytes that an id adds to the text that people see; none for structure and ids without a token."""
        try:
            return self.tokenizer.token_bytes(id, skip_special_tokens=True)
        except TokenizerError:
            return b""

    @cached_property
    def spellings(self) -> Sequence[bytes]:
        """`spelled` of every id."""
        return [self.spelled(id) for id in range(self.vocab_size)]

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids with which a model writes `text` in front of more text; tags are the tokens that they have."""
        whole = self.tokenizer.encode(text + "A")  # line breaks at the very end may be joined otherwise
        before = whole[:-1]
        return tuple(before if self.tokenizer.decode(before) == text else self.tokenizer.encode(text))

    def only(self, *ids: int) -> NDArray[np.bool_]:
        """[V], True for these ids."""
        mask = np.zeros(self.vocab_size, np.bool_)
        mask[list(ids)] = True
        return mask

    @cached_property
    def begun(self) -> Sequence[NDArray[np.bool_]]:
        """For each number of bytes of `<think>` that are written, [V]: the ids that go on with it, or past it."""
        return list(Tag(THINK, self).begun)

    @cached_property
    def inside(self) -> Sequence[NDArray[np.bool_]]:
        """For each number of bytes of `</think>` that are written, [V]: the ids that may come in a thought.

        Those are all that have a token, but not the end of the reply, and none that goes past the end of the tag.
        """
        token = np.array([bool(spelling) for spelling in self.spellings], np.bool_)
        token[list(self.tokenizer.added_tokens.values())] = True
        token[self.eos_id] = False
        return [token & ~overrun for overrun in Tag(THINK_END, self).overrun]

    def matcher(self, grammars: Sequence[dict[str, Any]]) -> LLMatcher:
        """A matcher at the start of a grammar; the first of `grammars` may name the others. Never raises."""
        limits = LLParserLimits(verbose_errors=False)
        return LLMatcher(self._backend, json.dumps({"grammars": grammars}), log_level=0, limits=limits)

    @cached_property
    def _backend(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Tokens(self)), eos_token=self.eos_id)


class _Tokens:
    """The tokenizer in the form that llguidance asks for. Added tokens are no text to it, the visible ones neither."""

    bos_token_id = None

    def __init__(self, lexicon: Lexicon) -> None:
        added = lexicon.tokenizer.added_tokens
        self.eos_token_id = lexicon.eos_id
        self.special_token_ids = sorted(added.values())
        self.tokens = list(lexicon.spellings)
        for name, id in added.items():
            self.tokens[id] = name.encode()
        self._encode = lexicon.tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, split_special=True)


class Tag:
    """A name in running text and what ids have to do with it. A tag begins with a character that it has only once.

    `begun[k]` [V]: ids that go on with a tag of which k bytes are written, up to its end or past it.
    `overrun[k]` [V]: ids that write the rest of it and then more.
    """

    def __init__(self, name: str, lexicon: Lexicon) -> None:
        self.name = tag = name.encode()
        assert tag.count(tag[:1]) == 1
        self.begun = np.zeros((len(tag), lexicon.vocab_size), np.bool_)
        self.overrun = np.zeros((len(tag), lexicon.vocab_size), np.bool_)
        parts = {tag[start:stop] for start in range(len(tag)) for stop in range(start + 1, len(tag) + 1)}
        for id, spelling in enumerate(lexicon.spellings):
            if spelling not in parts and tag[-1:] not in spelling:
                continue
            for k in range(len(tag)):
                rest = tag[k:]
                self.begun[k, id] = bool(spelling) and (rest.startswith(spelling) or spelling.startswith(rest))
                _, found, after = (tag[:k] + spelling).partition(tag)
                self.overrun[k, id] = bool(found and after)


def written(tag: bytes, text: bytes) -> int:
    """How many bytes of the tag stand at the end of `text`, at most all but one."""
    for k in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:k]):
            return k
    return 0
