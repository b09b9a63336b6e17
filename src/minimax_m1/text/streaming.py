"""Streaming encode: ids of a long text, block by block, equal to the ids of the whole text at once.

In: a tokenizer and a text source (string, path, open text file, iterator of strings). Out: lists of ids.
A block is cut only where the whole-text encoding has a boundary whatever follows; see `_Cutter`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer

from minimax_m1.errors import RequestError
from minimax_m1.text.vocabulary import published_pre_tokenizer, small_pre_tokenizer

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

TextSource = str | Path | Iterable[str]  # an open text file is an iterable of its lines

BLOCK = 1 << 16  # characters

# The published split is cut before these only; each of them ends any run of letters and digits.
# Those past ASCII are the full-width stop, commas and other marks of Chinese and Japanese.
_MARKS = frozenset(" \n!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u3002\uff0c\u3001\uff01\uff1f\uff1b\uff1a")


def encode_stream(
    tokenizer: MiniMaxM1Tokenizer, source: TextSource, *, split_special: bool = False, block: int = BLOCK
) -> Iterator[list[int]]:
    """Yields blocks of ids whose concatenation equals `tokenizer.encode` of the whole text.

    A path is read as UTF-8 with its line ends as they are. Memory is that of about one `block` (in
    characters), and time is linear, as long as the text has places to cut: white space after a word,
    punctuation after a letter or digit, in small vocabularies any change of character class. A stretch
    without one (a hundred megabytes of "a", say) is one word to the tokenizer and is held and encoded
    whole, as the whole-text encoding would. A tokenizer whose split is neither the published one
    nor ours, or that normalises text, is not known well enough to cut: its text is held whole too.

    Raises:
        RequestError: a file that cannot be read or is not UTF-8, a piece that is not a string, or text
            that cannot be written as UTF-8.
    """
    cutter = _Cutter(tokenizer.backend, () if split_special else tokenizer.added_tokens)
    held: list[str] = []  # text since the last cut; joined once a cut is found, so long runs cost linear time
    for piece in _blocks(_pieces(source), block):
        last = held[-1][-1] if held else ""
        cut = cutter.last_cut(last + piece) - len(last)
        if cut < 0:
            held.append(piece)
            continue
        yield tokenizer.encode_whole("".join([*held, piece[:cut]]), split_special=split_special)
        held = [piece[cut:]]
    if held:
        yield tokenizer.encode_whole("".join(held), split_special=split_special)


class _Cutter:
    """Finds places where a text may be cut without changing its ids.

    Place p between characters a and b is safe if
    - no added token holds a and b side by side, so none can lie across p; and
    - the split has a boundary at p whatever stands further left or right. Our split goes by the
      classes of neighbours alone, so splitting the pair tells. The published split looks ahead, but
      only past a run of white space, and joins a space to the word after it; so a must not be white
      space, and b must be white space or punctuation, which ends a run of letters or digits (and the
      contractions) wherever the run began. The pre-tokenizer itself splits the pairs, so
      it and not Python's Unicode tables says which character is a letter.
    """

    def __init__(self, backend: Tokenizer, added: Iterable[str]) -> None:
        split = backend.pre_tokenizer
        self._published = self._small = False
        if split is not None and backend.normalizer is None and _added_are_plain(backend):
            self._published = _describe(split) == _describe(published_pre_tokenizer())
            self._small = _describe(split) == _describe(small_pre_tokenizer())
            self._split = split
        self._inside_added = {a + b for token in added for a, b in pairwise(token)}
        self._seen: dict[str, bool] = {}

    def last_cut(self, text: str) -> int:
        """The last safe place in `text`, above 0; -1 if there is none."""
        if not (self._published or self._small):
            return -1
        for place in range(len(text) - 1, 0, -1):
            if self._published and text[place] not in _MARKS:
                continue
            if self._safe(text[place - 1 : place + 1]):
                return place
        return -1

    def _safe(self, pair: str) -> bool:
        if pair not in self._seen:
            if len(self._seen) > 100_000:
                self._seen.clear()
            self._seen[pair] = pair not in self._inside_added and self._splits(pair)
        return self._seen[pair]

    def _splits(self, pair: str) -> bool:
        try:
            if self._published and len(self._split.pre_tokenize_str(pair[0] + " ")) == 1:
                return False  # the first character is white space
            return len(self._split.pre_tokenize_str(pair)) == 2
        except (UnicodeEncodeError, TypeError):
            return False  # a lone surrogate, which encoding refuses in its own words


def _describe(split: PreTokenizer) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps as it writes them to tokenizer.json, less what concerns offsets only."""
    state = json.loads(split.__getstate__())
    steps: list[dict[str, Any]] = state.get("pretokenizers", [state])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _added_are_plain(backend: Tokenizer) -> bool:
    """Whether added tokens match letter for letter and leave the text around them alone."""
    return not any(
        token.lstrip or token.rstrip or token.single_word for token in backend.get_added_tokens_decoder().values()
    )


def _pieces(source: TextSource) -> Iterator[str]:
    """The source as strings of any length."""
    if isinstance(source, str):
        yield source
    elif isinstance(source, Path):
        try:
            with source.open(encoding="utf-8", newline="") as file:
                while piece := file.read(BLOCK):
                    yield piece
        except OSError as error:
            raise RequestError(f"{source} cannot be read: {error.strerror}", param="input") from None
        except UnicodeDecodeError as error:
            raise RequestError(f"{source} is not UTF-8: {error.reason}", param="input") from None
    elif hasattr(source, "read"):
        while piece := source.read(BLOCK):
            yield _checked(piece)
    else:
        for piece in source:
            yield _checked(piece)


def _checked(piece: object) -> str:
    if not isinstance(piece, str):
        raise RequestError(f"text must come as strings, got {type(piece).__name__}", param="input")
    return piece


def _blocks(pieces: Iterable[str], block: int) -> Iterator[str]:
    """The same text in strings of at least `block` characters (the last may be shorter) and at most twice that."""
    gathered: list[str] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), block):
            part = piece[start : start + block]
            gathered.append(part)
            size += len(part)
            if size >= block:
                yield "".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield "".join(gathered)
