"""A tokenizer as llama.cpp has it: tokens, kinds, merges, and the name of a split that it has built in.

In: a `MiniMaxM1Tokenizer` and the rows of the embedding. Out: `Words`, or a TokenizerError that says what llama.cpp has
no counterpart for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from gguf import TokenType
from tokenizers import Tokenizer, models, pre_tokenizers

from minimax_m1.errors import TokenizerError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import VISIBLE, byte_symbols, published_pre_tokenizer, small_pre_tokenizer

# The published split is llama.cpp's "gpt-2" to the letter. The one of vocabularies trained here is not among them, nor
# is any that keeps its runs of letters and spaces whole but "superbpe", which splits at numbers alone. Where no merge
# reaches from one of our pieces into the next, coarser pieces give the same tokens; `Words.loose` counts the others.
_EXACT, _COARSE = "gpt-2", "superbpe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """tokens [V] in byte symbols, kinds [V] (gguf.TokenType), merges as "left right", best first; the built-in split.

    `loose` counts the merges that may join, in llama.cpp, what our split keeps apart: 0 means the same tokens always.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    split: str
    loose: int

    @classmethod
    def of(cls, tokenizer: MiniMaxM1Tokenizer, rows: int) -> Self:
        """Rows of the embedding without a token get one that no text has. Raises TokenizerError."""
        if tokenizer.vocab_size > rows:
            raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {rows} rows for them")
        told: dict[str, Any] = json.loads(tokenizer.backend.to_str())
        split = _split(told)
        merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in told["model"]["merges"]]
        names = {id: name for name, id in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
        added = tokenizer.backend.get_added_tokens_decoder()

        def kind(id: int) -> int:
            if id not in names:
                return TokenType.UNUSED
            if id not in added:
                return TokenType.NORMAL
            hidden = added[id].special and added[id].content not in VISIBLE
            return TokenType.CONTROL if hidden else TokenType.USER_DEFINED

        return cls(
            tokens=[names.get(id, f"[PAD{id}]") for id in range(rows)],
            kinds=[int(kind(id)) for id in range(rows)],
            merges=[f"{left} {right}" for left, right in merges],
            split=split,
            loose=_loose(left + right for left, right in merges) if split == _COARSE else 0,
        )


def _split(told: dict[str, Any]) -> str:
    """The name of llama.cpp's split for this tokenizer.json."""
    if told["normalizer"] is not None:
        raise TokenizerError(f"llama.cpp has no counterpart for the normalizer {told['normalizer'].get('type')!r}")
    if told["model"].get("ignore_merges"):
        raise TokenizerError("llama.cpp has no counterpart for ignore_merges with this split")
    for known, name in ((published_pre_tokenizer(), _EXACT), (small_pre_tokenizer(), _COARSE)):
        if _meaning(told["pre_tokenizer"]) == _meaning(_as_json(known)):
            return name
    raise TokenizerError(f"llama.cpp has no split known to equal the pre_tokenizer {json.dumps(told['pre_tokenizer'])}")


def _as_json(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    return json.loads(backend.to_str())["pre_tokenizer"]


def _meaning(value: Any) -> Any:
    """A pre-tokenizer without what changes offsets only."""
    if isinstance(value, dict):
        return {key: _meaning(part) for key, part in value.items() if key != "trim_offsets"}
    return [_meaning(part) for part in value] if isinstance(value, list) else value


def _loose(tokens: Iterable[str]) -> int:
    """How many of these tokens may reach over a boundary of our split: neither in one piece nor in one character."""
    symbols, split = byte_symbols(), small_pre_tokenizer()
    count = 0
    for token in tokens:
        bits = bytes(symbols[char] for char in token)
        try:
            count += len(split.pre_tokenize_str(bits.decode("utf-8"))) > 1
        except UnicodeDecodeError:
            count += any(byte & 0xC0 != 0x80 for byte in bits[1:])  # the beginning of a second character
    return count
