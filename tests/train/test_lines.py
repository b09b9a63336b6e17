"""Lines of a file are numbered as an editor numbers them, and found again by their offsets."""

from __future__ import annotations

from pathlib import Path

from minimax_m1.train.lines import numbered


def test_lines_are_numbered_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    raw = b'\xef\xbb\xbf{"text": "\xc3\xa4"}\n\n \t\r\nb\x0bc\x0cd\xe2\x80\xa8e\r\nlast'
    path.write_bytes(raw)
    lines = list(numbered(path))
    assert [number for number, _, _ in lines] == [1, 4, 5]
    for _, offset, line in lines:
        assert raw[offset:].startswith(line)
