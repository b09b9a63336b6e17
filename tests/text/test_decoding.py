"""Running decode: whole characters only, stop strings never shown, equal to decoding at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import RequestError
from minimax_m1.text.decoding import TextStream
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def cut(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first, letter by letter."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return text


def run(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.push(id) for id in ids), stream.finish()]


@settings(max_examples=300)
@given(
    ids=st.lists(st.integers(0, 300), max_size=30),
    text=st.text(alphabet="ab🙂é <", max_size=20),
    stops=st.lists(st.text(alphabet="ab🙂é\ufffd", min_size=1, max_size=4), max_size=3),
    skip=st.booleans(),
)
def test_pieces_join_to_the_decoded_text_cut_at_the_first_stop(
    small: MiniMaxM1Tokenizer, ids: list[int], text: str, stops: list[str], skip: bool
) -> None:
    ids = [*ids, *small.encode(text), *ids[::-1]]
    stream = TextStream(small, stop=stops, skip_special_tokens=skip)
    whole = small.decode(ids, skip_special_tokens=skip)
    assert isinstance(whole, str)
    told = "".join(run(stream, ids))
    assert told == cut(whole, stops)
    assert stream.stopped == (told != whole)


def test_half_a_character_is_held_back(small: MiniMaxM1Tokenizer) -> None:
    ids = [small.token_to_id(symbol) for symbol in ("ð", "Ł", "Ļ", "Ĥ")]  # the four bytes of U+1F642
    stream = TextStream(small)
    assert [stream.push(id) for id in ids] == ["", "", "", "🙂"]  # type: ignore[arg-type]
    assert stream.finish() == ""
    stream = TextStream(small)
    assert run(stream, ids[:3]) == ["", "", "", "\ufffd"]  # type: ignore[arg-type]


def test_what_may_become_a_stop_string_is_held_back(small: MiniMaxM1Tokenizer) -> None:
    a, b, c = (small.encode(letter)[0] for letter in "abc")
    stream = TextStream(small, stop=["abc"])
    assert [stream.push(id) for id in (a, b, a, b)] == ["", "", "ab", ""]
    assert not stream.stopped and stream.push(c) == ""
    assert stream.stopped and stream.stop_string == "abc"
    assert stream.push(a) == "" and stream.finish() == ""


def test_an_unfinished_stop_string_is_text_after_all(small: MiniMaxM1Tokenizer) -> None:
    stream = TextStream(small, stop="abc")
    assert "".join(run(stream, small.encode("xab"))) == "xab"
    assert not stream.stopped


def test_end_of_sentence_is_not_text_but_tags_are(tokenizer: MiniMaxM1Tokenizer) -> None:
    ids = tokenizer.encode("<think>a</think>b<end_of_sentence>")
    assert "".join(run(TextStream(tokenizer), ids)) == "<think>a</think>b"
    shown = TextStream(tokenizer, skip_special_tokens=False)
    assert "".join(run(shown, ids)) == "<think>a</think>b<end_of_sentence>"


def test_an_id_without_a_token_does_not_end_the_stream(small: MiniMaxM1Tokenizer) -> None:
    assert run(TextStream(small), [small.vocab_size, 10**9]) == ["\ufffd", "\ufffd", ""]


@pytest.mark.parametrize("stop", [[""], ["a", ""]])
def test_empty_stop_strings_are_refused(small: MiniMaxM1Tokenizer, stop: list[str]) -> None:
    with pytest.raises(RequestError, match="at least one character") as caught:
        TextStream(small, stop=stop)
    assert caught.value.param == "stop"
    assert TextStream(small, stop="").push(small.encode("a")[0]) == "a"


def test_time_for_a_token_does_not_grow(small: MiniMaxM1Tokenizer) -> None:
    stream = TextStream(small, stop=["never this"])
    ids = small.encode("the dog ") * 250

    def seconds() -> float:
        start = time.perf_counter()
        for id in ids:
            stream.push(id)
        return time.perf_counter() - start

    first = min(seconds() for _ in range(5))
    for _ in range(100):
        seconds()
    assert min(seconds() for _ in range(5)) < 3 * first
