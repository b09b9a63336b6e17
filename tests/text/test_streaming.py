"""Streaming encode equals whole-text encode, whatever the text and however it is cut, in flat memory."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from minimax_m1.errors import RequestError
from minimax_m1.text.streaming import BLOCK, encode_stream
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

ATOMS = [
    "a", "the", "The", "'s", "'", "'ll", "\u2019", "12", "7", "\u00bd", "!", ".", "--", "_", "\u3002", "\uff0c",
    "你好", "é", "e\u0301", "\u0e01\u0e33", "🙂", "👩\u200d👩\u200d👧", "ẞ", "\U0001e900", " ", "  ", "    ",
    "\n", "\n\n", "\t", "\r\n", "\r", "\u3000", "\u00a0", "\u200b", "\u180e", "\x1c", "\x85", "\u2028", "\x00",
    "<think>", "<thi", "nk>", "</think>", "<", ">", "<end_of_sentence>", "<end_of_", "sentence>",
    "<tool_calls>\n", "</tool_calls>",
]  # fmt: skip

texts = st.lists(st.sampled_from(ATOMS) | st.text(max_size=4), max_size=60).map("".join)


def joined(blocks: Iterable[list[int]]) -> list[int]:
    return [id for ids in blocks for id in ids]


def pieces(text: str, cuts: list[int]) -> Iterator[str]:
    """The text cut at any places, empty pieces included."""
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    for start, stop in zip([0, *places], [*places, len(text)], strict=True):
        yield text[start:stop]


@settings(max_examples=400)
@given(text=texts, cuts=st.lists(st.integers(0, 10_000), max_size=8), block=st.integers(1, 9), split=st.booleans())
@example(text="a  <think>  \n b", cuts=[4], block=1, split=False)
@example(text="a \n\n!x", cuts=[], block=1, split=False)
@pytest.mark.parametrize("kind", ["small", "published"])
def test_any_text_in_any_pieces(
    kind: str, text: str, cuts: list[int], block: int, split: bool, request: pytest.FixtureRequest
) -> None:
    tokenizer: MiniMaxM1Tokenizer = request.getfixturevalue(kind)
    blocks = encode_stream(tokenizer, pieces(text, cuts), split_special=split, block=block)
    assert joined(blocks) == tokenizer.encode(text, split_special=split)


def test_every_character_is_cut_as_the_pre_tokenizer_cuts_it(tokenizer: MiniMaxM1Tokenizer) -> None:
    """Each character of Unicode beside each kind of neighbour, in one text, cut wherever it may be."""
    soup = "".join(
        f"a{c}a {c}! {c}。1{c}'s\n{c}{c}<{c}" for c in map(chr, range(0, 0x30000, 7)) if not "\ud800" <= c <= "\udfff"
    )
    blocks = list(encode_stream(tokenizer, soup, block=50))
    assert len(blocks) > 1000
    assert joined(blocks) == tokenizer.encode(soup)


def test_prose_is_cut_into_blocks(tokenizer: MiniMaxM1Tokenizer) -> None:
    for sentence in ("The quick brown fox, they'd say.\n", "你好\uff0c世界。我们今天去北京。"):
        text = sentence * (3 * BLOCK // len(sentence))
        blocks = list(tokenizer.encode(text, stream=True))
        assert len(blocks) >= 3
        assert joined(blocks) == tokenizer.encode(text)


@pytest.mark.parametrize("char", ["a", " ", "\n", "好", "🙂", "\u0e01", "1", "!"])
def test_text_without_a_place_to_cut_is_still_right(tokenizer: MiniMaxM1Tokenizer, char: str) -> None:
    text = char * 200_000
    assert joined(tokenizer.encode(text, stream=True)) == tokenizer.encode(text)


def test_sources(small: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    text = "The dog\r\nand the fox 🙂\n" * 20
    whole = small.encode(text)
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    with path.open(encoding="utf-8", newline="") as file:
        for source in (text, path, file, io.StringIO(text, newline=""), iter(text), [text[:7], "", text[7:]]):
            assert joined(small.encode(source, stream=True)) == whole
    assert list(small.encode("", stream=True)) == []
    assert list(small.encode([], stream=True)) == []


def test_bad_sources_are_refused(small: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(RequestError, match=r"bad\.txt is not UTF-8"):
        list(small.encode(tmp_path / "bad.txt", stream=True))
    with pytest.raises(RequestError, match=r"none\.txt cannot be read"):
        list(small.encode(tmp_path / "none.txt", stream=True))
    with pytest.raises(RequestError, match="got bytes"):
        list(small.encode(io.BytesIO(b"abc"), stream=True))
    with pytest.raises(RequestError, match="lone surrogate"):
        list(small.encode(["a", "\ud800"], stream=True))


def test_an_unknown_kind_of_tokenizer_is_not_cut(small: MiniMaxM1Tokenizer) -> None:
    normalising, greedy = (Tokenizer.from_str(small.backend.to_str()) for _ in range(2))
    normalising.normalizer = normalizers.NFC()
    greedy.add_tokens([AddedToken("<x>", rstrip=True)])
    for backend in (normalising, greedy):
        tokenizer = MiniMaxM1Tokenizer(backend, {})
        text = "e\u0301 <x>   the dog " * 9
        blocks = list(encode_stream(tokenizer, iter(text), block=4))
        assert blocks == [tokenizer.encode(text)]


PEAK = """
import sys
from pathlib import Path
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
def highest():  # of this program; ru_maxrss would tell the peak of the process that started it, if that was higher
    return Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
tokenizer = MiniMaxM1Tokenizer.from_pretrained(sys.argv[1])
before = highest()
count = sum(len(ids) for ids in tokenizer.encode(Path(sys.argv[2]), stream=True))
print(count, before, highest())
"""


def peak(tokenizer: MiniMaxM1Tokenizer, folder: Path, size: int) -> tuple[int, int, int]:
    """Ids, and the process's peak memory in KiB before and after streaming a file of `size` bytes."""
    tokenizer.save_pretrained(folder)
    line = "The party of the first part shall pay 1,234.56 francs; 你好\uff0c世界。 Isn't that so?\n"
    with (folder / "long.txt").open("w", encoding="utf-8") as file:
        for _ in range(size // len(line.encode()) // 1000 + 1):
            file.write(line * 1000)
    arguments = [sys.executable, "-c", PEAK, str(folder), str(folder / "long.txt")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    count, before, after = map(int, result.stdout.split())
    return count, before, after


def test_memory_is_flat(published: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    count, before, after = peak(published, tmp_path, 5_000_000)
    assert count > 1_000_000
    assert after - before < 60 * 1024


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_megabytes_stay_under_300_mb(tokenizer: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    _, _, after = peak(tokenizer, tmp_path, 100_000_000)
    assert after < 300_000
