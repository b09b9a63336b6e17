"""Tokenizers in llama.cpp's terms: which split, which tokens are special, what has no counterpart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from minimax_m1.errors import TokenizerError
from minimax_m1.export.words import Words
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def test_the_published_split_is_gpt_2s(tmp_path: Path) -> None:
    merges = tmp_path / "merges.txt"
    merges.write_text("h e\nhe y\n", "utf-8")
    words = Words.of(MiniMaxM1Tokenizer.from_merges(merges, specials={"<a>": 300}), 302)
    assert (words.split, words.loose, words.merges) == ("gpt-2", 0, ["h e", "he y"])
    assert words.tokens[256:260] == ["he", "hey", "[PAD258]", "[PAD259]"] and words.tokens[300] == "<a>"
    assert words.kinds[255:259] == [1, 1, 1, 5] and words.kinds[300:] == [3, 5]


def trained(text: str) -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.train([text] * 9, vocab_size=500)


@pytest.mark.parametrize("text", ["hello there   you\n\n", "你 好 世 界", "©© ±12"])
def test_merges_within_a_piece_or_a_character_are_not_loose(text: str) -> None:
    words = Words.of(trained(text), 500)
    assert words.split == "superbpe" and words.merges and words.loose == 0


def test_merges_that_reach_into_a_second_character_are_counted() -> None:
    words = Words.of(trained("приврат рапорт привратник порт"), 500)
    assert 0 < words.loose < len(words.merges)


def test_offsets_do_not_make_another_split() -> None:
    tokenizer = trained("hello")
    tokenizer.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    assert Words.of(tokenizer, 500).split == "gpt-2"


def test_tags_that_belong_to_the_answer_are_shown_even_where_the_files_call_them_special() -> None:
    tokenizer = trained("hello")
    tokenizer.backend.add_special_tokens(["<other>", "<think>"])  # the second was there, and not special
    words = Words.of(MiniMaxM1Tokenizer(tokenizer.backend, {}), 500)
    kinds = dict(zip(words.tokens, words.kinds, strict=True))
    assert (kinds["<think>"], kinds["<other>"], kinds["<pad>"]) == (4, 3, 3)


def test_merges_that_are_skipped_for_whole_words_are_refused() -> None:
    told = json.loads(trained("hello").backend.to_str())
    told["model"]["ignore_merges"] = True
    with pytest.raises(TokenizerError, match="ignore_merges"):
        Words.of(MiniMaxM1Tokenizer(Tokenizer.from_str(json.dumps(told)), {}), 500)


def test_another_split_is_refused() -> None:
    tokenizer = trained("hello")
    tokenizer.backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TokenizerError, match="Whitespace"):
        Words.of(tokenizer, 500)


def test_a_normalizer_is_refused() -> None:
    tokenizer = trained("hello")
    tokenizer.backend.normalizer = normalizers.NFC()
    with pytest.raises(TokenizerError, match="NFC"):
        Words.of(tokenizer, 500)


def test_more_tokens_than_rows_are_refused() -> None:
    tokenizer = trained("hello")
    with pytest.raises(TokenizerError, match=f"{tokenizer.vocab_size} ids, the model 8"):
        Words.of(tokenizer, 8)
