"""Training, files, encoding, decoding and the special tokens of the tokenizer."""

from __future__ import annotations

import json
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from minimax_m1.errors import RequestError, TokenizerError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import FAMILY_SPECIALS, SMALL_SPECIALS, byte_symbols

TEXTS = ["", "a", "The answer is 46.", "x\n\n  y\t", "héllo 🙂 你好", "<think>\nhm\n</think>\n\nok<end_of_sentence>"]


def test_training_is_deterministic_and_puts_the_specials_last() -> None:
    corpus = ["one two three one two one"] * 5
    first, second = (MiniMaxM1Tokenizer.train(corpus, vocab_size=300) for _ in range(2))
    assert first.backend.to_str() == second.backend.to_str()
    ids = [first.token_to_id(name) for name in SMALL_SPECIALS]
    assert ids == list(range(first.vocab_size - len(SMALL_SPECIALS), first.vocab_size))
    assert first.vocab_size <= 300
    assert len(first.encode("one")) == 1


def test_training_refuses_a_vocabulary_without_room_for_the_bytes() -> None:
    with pytest.raises(TokenizerError, match=r"at least 265 .* got 264"):
        MiniMaxM1Tokenizer.train(["a"], vocab_size=264)


def test_small_split_isolates_digits_words_newlines_and_marks(small: MiniMaxM1Tokenizer) -> None:
    pieces = small.backend.pre_tokenizer.pre_tokenize_str("the 123, the\n\n  x!?")
    assert ["the 123, the\n\n  x!?"[a:b] for _, (a, b) in pieces] == [
        "the", " ", "1", "2", "3", ",", " ", "the", "\n", "\n", "  ", "x", "!", "?",
    ]  # fmt: skip
    assert small.encode("the the")[0] == small.encode("the the")[-1]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_inverts_encode(tokenizer: MiniMaxM1Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, split_special=True)) == text


@given(ids=st.lists(st.integers(0, 400), max_size=40), skip=st.booleans())
def test_decode_equals_the_library(small: MiniMaxM1Tokenizer, ids: list[int], skip: bool) -> None:
    ids = [id for id in ids if id < small.vocab_size and not (skip and small.id_to_token(id) in small.added_tokens)]
    assert small.decode(ids) == small.backend.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("text", TEXTS)
def test_encode_equals_the_library(tokenizer: MiniMaxM1Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == tokenizer.backend.encode(text).ids


def test_special_names_are_tokens_unless_split(tokenizer: MiniMaxM1Tokenizer) -> None:
    text = "a<end_of_sentence>b</think>"
    whole, split = tokenizer.encode(text), tokenizer.encode(text, split_special=True)
    assert tokenizer.eos_token_id in whole and tokenizer.token_to_id("</think>") in whole
    assert not set(split) & set(tokenizer.added_tokens.values())


def test_skipping_specials_keeps_the_tags_that_the_reply_parser_reads(tokenizer: MiniMaxM1Tokenizer) -> None:
    ids = tokenizer.encode("<think>a</think><tool_calls>b</tool_calls><end_of_sentence><pad>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think><tool_calls>b</tool_calls>"


def test_decode_takes_ids_rows_and_batches(small: MiniMaxM1Tokenizer) -> None:
    ids = small.encode("the dog")
    for one in (ids, tuple(ids), [ids], torch.tensor(ids), torch.tensor([ids]), np.array([ids]), list(np.array(ids))):
        assert small.decode(one) == "the dog"
    assert small.decode([ids, ids[:1]]) == ["the dog", "the"]
    assert small.decode(torch.tensor([ids, ids])) == ["the dog", "the dog"]
    assert small.decode(ids[0]) == "the"
    assert small.decode([]) == ""


@pytest.mark.parametrize("bad", [-1, 10**6, 2**40])
def test_decode_names_an_id_out_of_range(small: MiniMaxM1Tokenizer, bad: int) -> None:
    with pytest.raises(TokenizerError, match=f"id {bad} .* {small.vocab_size} ids"):
        small.decode([0, bad])


def test_calling_gives_what_generate_takes(small: MiniMaxM1Tokenizer) -> None:
    flat = small("the dog")
    assert flat.input_ids == small.encode("the dog") and flat["attention_mask"] == [1] * len(flat.input_ids)
    one = small("the dog", return_tensors="pt")
    assert one.input_ids.shape == (1, len(flat.input_ids)) and one.input_ids.dtype == torch.int64
    assert dict(**one).keys() == {"input_ids", "attention_mask"}
    assert one.to("cpu").input_ids.equal(one.input_ids)
    assert small("", return_tensors="pt").input_ids.shape == (1, 0)
    assert small([], return_tensors="np").input_ids.shape == (0, 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(small: MiniMaxM1Tokenizer, side: str) -> None:
    batch = small(["the", "the the"], return_tensors="np", padding=True, padding_side=side)
    the, space = small.encode("the ")
    pad = small.pad_token_id
    short = [pad, pad, the] if side == "left" else [the, pad, pad]
    assert batch.input_ids.tolist() == [short, [the, space, the]]
    assert batch.attention_mask.tolist() == [[int(id != pad) for id in short], [1, 1, 1]]


def test_bad_calls_are_refused_in_one_sentence(small: MiniMaxM1Tokenizer) -> None:
    with pytest.raises(RequestError, match="padding=True"):
        small(["a", "a a"], return_tensors="pt")
    with pytest.raises(RequestError, match="padding_side"):
        small("a", padding_side="top")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="return_tensors"):
        small("a", return_tensors="tf")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="got int"):
        small(5)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="lone surrogate at character 2"):
        small.encode("ab\ud800")


def test_saved_and_loaded_again_it_is_the_same(tokenizer: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "new")
    loaded = MiniMaxM1Tokenizer.from_pretrained(tmp_path / "new")
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text)
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert dict(loaded.added_tokens) == dict(tokenizer.added_tokens)


def test_pad_falls_back_to_eos(small: MiniMaxM1Tokenizer) -> None:
    assert small.pad_token == "<pad>"
    unpadded = MiniMaxM1Tokenizer(small.backend, {"eos_token": "<end_of_sentence>"})
    assert unpadded.pad_token_id == small.eos_token_id
    assert MiniMaxM1Tokenizer(small.backend, {}).pad_token_id is None


def test_published_merges_make_the_published_ids(tmp_path: Path) -> None:
    symbols = list(byte_symbols())
    pairs = [(a, b) for a, b in product(symbols, symbols)]
    longer = ((a + b, c) for (a, b), c in product(pairs, symbols))
    merges = pairs + list(islice(longer, 199_744 - len(pairs)))
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")
    built = MiniMaxM1Tokenizer.from_merges(path)
    assert built.vocab_size == 200_026
    assert built.token_to_id("!") == 0 and built.id_to_token(256) == "!!"
    assert {name: built.token_to_id(name) for name in FAMILY_SPECIALS} == FAMILY_SPECIALS
    assert built.pad_token_id == 200_000
    assert (built.bos_token_id, built.eos_token_id, built.unk_token_id) == (200_019, 200_020, 200_021)
    assert built.encode("<image>") == [200_025]


def test_specials_may_leave_gaps(published: MiniMaxM1Tokenizer) -> None:
    assert published.vocab_size == 1000 + len(SMALL_SPECIALS)
    assert published.encode("<end_of_sentence>") == [1003]
    with pytest.raises(TokenizerError, match="id 999 is not"):
        published.decode([999])


def test_vocab_and_merges_without_tokenizer_json(tmp_path: Path) -> None:
    vocab = {symbol: 999 - i for i, symbol in enumerate(byte_symbols())} | {"th": 3, "the": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (tmp_path / "merges.txt").write_text("t h\nth e\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<eos>"}, "added_tokens_decoder": {"1234": {"content": "<eos>"}}}), "utf-8"
    )
    loaded = MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    assert loaded.encode("the<eos>!") == [4, 1234, 999]
    assert loaded.eos_token == "<eos>" and loaded.eos_token_id == 1234 and loaded.bos_token_id is None


def test_broken_files_are_named(small: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json cannot be read"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    small.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2], "utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a readable tokenizer"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor merges\.txt"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na\n", "utf-8")
    with pytest.raises(TokenizerError, match=r"merges\.txt line 3 must hold two symbols, got 'a'"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"a \xff\n")
    with pytest.raises(TokenizerError, match=r"merges\.txt is not UTF-8 at byte 2"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]", "utf-8")
    with pytest.raises(TokenizerError, match="must hold a JSON object, got list"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)


def test_other_kinds_of_tokenizer_are_refused(small: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    whole["decoder"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    with pytest.raises(TokenizerError, match="byte-level BPE"):
        MiniMaxM1Tokenizer.from_pretrained(tmp_path)


def test_a_special_cannot_take_an_id_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("t h\n", "utf-8")
    with pytest.raises(TokenizerError, match="'<eos>' cannot have id 256, which is 'th'"):
        MiniMaxM1Tokenizer.from_merges(tmp_path / "merges.txt", specials={"<eos>": 256})


def test_a_tokenizer_file_with_truncation_does_not_truncate(small: MiniMaxM1Tokenizer) -> None:
    backend = type(small.backend).from_str(small.backend.to_str())
    backend.enable_truncation(2)
    assert isinstance(backend.pre_tokenizer, pre_tokenizers.Sequence)
    assert MiniMaxM1Tokenizer(backend, {}).encode("the the the") == small.encode("the the the")
