"""What ids spell, and what they have to do with a tag."""

from __future__ import annotations

import numpy as np
import pytest

from minimax_m1.errors import TokenizerError
from minimax_m1.text.lexicon import Lexicon, Tag, written
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


@pytest.fixture
def lexicon(tokenizer: MiniMaxM1Tokenizer) -> Lexicon:
    return Lexicon(tokenizer, tokenizer.vocab_size + 7)


def test_every_id_of_the_model_has_a_spelling(lexicon: Lexicon) -> None:
    tokenizer = lexicon.tokenizer
    assert len(lexicon.spellings) == tokenizer.vocab_size + 7
    assert b"".join(lexicon.spellings[id] for id in tokenizer.encode("naïve 🙂 <think>")) == "naïve 🙂 <think>".encode()
    assert lexicon.spellings[lexicon.eos_id] == b""
    assert lexicon.spellings[-7:] == [b""] * 7


def test_ids_are_those_that_stand_before_more_text(lexicon: Lexicon) -> None:
    closing = "\n</think>\n\n"
    for answer in ("Done", '{"a": 1}', "12"):
        ids = lexicon.ids(closing)
        whole = lexicon.tokenizer.encode("<think>\nab" + closing + answer)
        start = len(lexicon.tokenizer.encode("<think>\nab"))
        assert tuple(whole[start : start + len(ids)]) == ids
    assert lexicon.tokenizer.decode(list(lexicon.ids(closing))) == closing


def test_a_tag_knows_the_ids_that_go_on_with_it_and_past_it(lexicon: Lexicon) -> None:
    tag = Tag("</think>", lexicon)
    for k in range(len(tag.name)):
        rest = tag.name[k:]
        for id, spelling in enumerate(lexicon.spellings):
            begun = spelling != b"" and (rest.startswith(spelling) or spelling.startswith(rest))
            whole = tag.name[:k] + spelling
            overrun = tag.name in whole and not whole.endswith(tag.name)
            assert (tag.begun[k, id], tag.overrun[k, id]) == (begun, overrun), (k, spelling)


def test_an_id_that_writes_a_tag_and_more_overruns_it() -> None:
    learned = MiniMaxM1Tokenizer.train(["x"], vocab_size=256, specials=())
    backend = learned.backend
    backend.add_tokens(['>{"', "</think>!", "<end_of_sentence>"])
    grown = MiniMaxM1Tokenizer(backend, {"eos_token": "<end_of_sentence>"})
    lexicon = Lexicon(grown, grown.vocab_size)
    tag = Tag("</think>", lexicon)
    brace, whole = grown.token_to_id('>{"'), grown.token_to_id("</think>!")
    assert set(np.flatnonzero(tag.overrun[7])) == {brace, whole}
    assert set(np.flatnonzero(tag.overrun[0])) == {whole}


@pytest.mark.parametrize(
    ("text", "k"), [(b"", 0), (b"a<", 1), (b"</thin", 6), (b"<</", 2), (b"</think>", 0), (b"</x", 0)]
)
def test_what_is_written_of_a_tag(text: bytes, k: int) -> None:
    assert written(b"</think>", text) == k


def test_a_model_smaller_than_its_tokenizer_is_refused(small: MiniMaxM1Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"has {small.vocab_size} ids, the model only 100"):
        Lexicon(small, 100)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    plain = MiniMaxM1Tokenizer.train(["x"], vocab_size=256, specials=())
    with pytest.raises(TokenizerError, match="no end of sentence"):
        Lexicon(plain, 256)
