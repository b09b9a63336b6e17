"""A batch's folder: each answer on disk before it is told, each line answered once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minimax_m1.serve.worksheet import ERRORS, INPUT, OUTPUT, Worksheet
from minimax_m1.wire.batches import Answered, LineError, LineReply


@pytest.fixture
def sheet(tmp_path: Path) -> Iterator[Worksheet]:
    lines = (f'{{"custom_id": "{name}", "url": "/v1/completions", "body": {{}}}}\n' for name in "abcd")
    (tmp_path / INPUT).write_text("".join(lines))
    sheet = Worksheet(tmp_path)
    sheet.open()
    yield sheet
    sheet.close()


def answered(custom_id: str, status: int = 200, body: object = None) -> Answered:
    reply = LineReply(status_code=status, request_id="req", body=body)
    return Answered(id=f"batch_req_{custom_id}", custom_id=custom_id, response=reply)


def left(sheet: Worksheet) -> str:
    return "".join(line.custom_id for line in sheet.unanswered())


def test_a_line_is_answered_once_and_never_after_the_end(sheet: Worksheet, tmp_path: Path) -> None:
    late = Answered(id="x", custom_id="b", error=LineError(code="batch_expired", message="late"))
    sheet.append(answered("a"), answered("b", 400), answered("a", 500), late)
    assert left(sheet) == "cd" and not sheet.expired
    sheet.close()
    sheet.append(answered("c"))
    assert left(sheet) == "cd"
    assert (sheet.counts.completed, sheet.counts.failed) == (1, 1)
    assert [(tmp_path / name).read_text().count("\n") for name in (OUTPUT, ERRORS)] == [1, 1]
    again = Worksheet(tmp_path)
    again.open()
    assert left(again) == "cd" and again.counts == sheet.counts
    again.close()


def test_a_sheet_that_was_closed_before_it_could_be_opened_stays_shut(tmp_path: Path) -> None:
    sheet = Worksheet(tmp_path)
    sheet.close()
    sheet.open()
    sheet.append(answered("a"))
    assert list(tmp_path.iterdir()) == []


def test_an_answer_is_on_disk_before_it_counts_as_told(
    sheet: Worksheet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("minimax_m1.serve.worksheet.os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    sheet.append(answered("a"))
    assert synced == [(tmp_path / OUTPUT).stat().st_size]


@pytest.mark.parametrize("damage", [b'{"id": "x", "custom_id": "b", "respo', b"\x00" * 50 + b"\n", b"[]\n"])
def test_from_a_broken_answer_on_all_is_asked_again(sheet: Worksheet, tmp_path: Path, damage: bytes) -> None:
    sheet.append(answered("a"))
    sheet.close()
    whole = (tmp_path / OUTPUT).read_bytes()
    (tmp_path / OUTPUT).write_bytes(whole + damage + whole.replace(b'"a"', b'"c"') * damage.endswith(b"\n"))
    again = Worksheet(tmp_path)
    again.open()
    assert left(again) == "bcd" and (tmp_path / OUTPUT).read_bytes() == whole
    again.append(answered("d"))
    assert (tmp_path / OUTPUT).read_bytes().count(b"\n") == 2
    again.close()


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}}, (3, 1, 4, 0)),
        (
            {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}},
            (3, 0, 4, 2),
        ),
        ({"input_tokens": 3, "output_tokens": 4, "cached_tokens": 1, "reasoning_tokens": 2}, (3, 1, 4, 2)),
        ({"input_tokens": 2, "output_tokens": 4, "cache_read_input_tokens": 1}, (3, 1, 4, 0)),
        ({"input_tokens": "many"}, (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
    ],
)
def test_tokens_are_counted_in_every_protocol(
    sheet: Worksheet, usage: object, tokens: tuple[int, int, int, int]
) -> None:
    sheet.append(answered("a", body={"usage": usage}), answered("b", body="no object"), answered("c", 400, usage))
    of = sheet.usage
    cached, thought = of.input_tokens_details.cached_tokens, of.output_tokens_details.reasoning_tokens
    assert (of.input_tokens, cached, of.output_tokens, thought) == tokens
    assert of.total_tokens == of.input_tokens + of.output_tokens
