"""Forms that come in pieces, cut anywhere, broken anyhow: the file is on disk whole, or nothing is."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from minimax_m1.errors import RequestError
from minimax_m1.serve.connection import ClientGone
from minimax_m1.serve.uploads import Upload, read_upload
from minimax_m1.wire.errors import Fault

FORM = "multipart/form-data; boundary=edge"
LEAVES: Any = object()


def part(name: str, data: bytes, *, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\nContent-Type: text/plain\r\n\r\n'
    return head.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


def request(pieces: Iterable[Any], content_type: str = FORM) -> Request:
    """A request whose body comes in these pieces; LEAVES: there the client goes away."""
    coming: Iterator[Any] = iter(pieces)

    async def receive() -> dict[str, Any]:
        piece = next(coming, None)
        if piece is LEAVES:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    headers = [(b"content-type", content_type.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def upload(folder: Path, pieces: Iterable[Any], content_type: str = FORM, limit: int = 10**6) -> Upload:
    return asyncio.run(read_upload(request(pieces, content_type), folder, limit=limit))


BODY = form(
    part("purpose", b"batch"),
    part("file", b"one\r\n--edg\r\n\x00\xff--edge", filename="Über 雪.jsonl"),
    part("empty", b""),
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("box")


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=12))
def test_a_form_cut_anywhere_is_read_whole(box: Path, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(BODY)]
    got = upload(box, [BODY[a:b] for a, b in pairwise(places)])
    assert got.fields == {"purpose": "batch", "empty": ""}
    assert got.filename == "Über 雪.jsonl"
    assert got.path.read_bytes() == b"one\r\n--edg\r\n\x00\xff--edge"
    assert got.nbytes == 20 and list(box.iterdir()) == [got.path]
    got.path.unlink()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BODY[:-6], "closing boundary is missing"),
        (b"", "closing boundary is missing"),
        (b"no form at all" * 9, "no form"),
        (form(part("purpose", b"batch")), "file is required"),
        (form(part("file", b"text, not a file")), "file is required"),
        (form(part("image", b"x", filename="x")), "has 'image' too"),
        (form(part("file", b"x", filename="x"), part("file", b"y", filename="y")), "has 'file' too"),
        (form(part("a", b"x"), part("a", b"y")), "'a' is in the form twice"),
        (form(part("a", b"\xff\xfe"), part("file", b"x", filename="x")), "not UTF-8"),
        (form(*(part(f"a{n}", b"") for n in range(33))), "more than 32 fields"),
        (form(part("a", b"x" * (2**20 + 1))), "longer than the limit of 1048576 bytes"),
        (form(b"--edge\r\nContent-Type: text/plain\r\n\r\nx\r\n"), "no name"),
        (b"--edge\r\nContent Disposition\r\n\r\nx\r\n--edge--\r\n", "no form"),
    ],
)
def test_a_broken_form_is_refused_and_leaves_nothing(tmp_path: Path, body: bytes, says: str) -> None:
    for pieces in ([body], [bytes([byte]) for byte in body[:2000]] + [body[2000:]]):
        with pytest.raises(RequestError, match=says):
            upload(tmp_path, pieces)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", f"multipart/form-data; boundary={'x' * 5000}"]
)
def test_what_is_no_form_is_refused(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(RequestError, match=r"multipart/form-data|no form"):
        upload(tmp_path, [BODY], content_type)
    assert list(tmp_path.iterdir()) == []


def test_a_file_over_the_limit_is_refused_with_413_and_one_at_the_limit_is_not(tmp_path: Path) -> None:
    fine = upload(tmp_path, [form(part("file", b"x" * 1000, filename="x"))], limit=1000)
    assert fine.nbytes == 1000
    fine.path.unlink()
    for size in (1001, 5_000_000):
        with pytest.raises(Fault, match="longer than the limit of 1000 bytes") as caught:
            upload(tmp_path, [form(part("file", b"x" * size, filename="x"))], limit=1000)
        assert caught.value.status == 413
        assert list(tmp_path.iterdir()) == []


def test_a_body_that_never_ends_is_not_read_for_ever(tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield part("file", b"", filename="x")[:-2]
        while True:
            yield b"x" * 100_000

    with pytest.raises(Fault, match="limit"):
        upload(tmp_path, endless(), limit=3_000_000)
    assert list(tmp_path.iterdir()) == []


def test_what_comes_after_the_form_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield BODY
        while True:
            yield b"x" * 100_000

    with pytest.raises(Fault, match="limit"):
        upload(tmp_path, endless(), limit=3_000_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 30, 110, len(BODY) - 1])
def test_a_client_that_leaves_leaves_nothing(tmp_path: Path, place: int) -> None:
    with pytest.raises(ClientGone):
        upload(tmp_path, [BODY[:place], LEAVES])
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    piece = part("file", b"x" * 3_000_000, filename="x")[:-2]

    async def run() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.001)
            return {"type": "http.request", "body": piece, "more_body": True}

        asked = Request({"type": "http", "headers": [(b"content-type", FORM.encode())]}, receive)
        task = asyncio.create_task(read_upload(asked, tmp_path, limit=10**10))
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    block = os.urandom(64 * 1024)

    def pieces() -> Iterator[bytes]:
        yield part("file", b"", filename="x")[:-2]
        for _ in range(600):
            yield block
        yield b"\r\n--edge--\r\n"

    tracemalloc.start()
    try:
        got = upload(tmp_path, pieces(), limit=10**9)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got.nbytes == 600 * len(block) == got.path.stat().st_size
    assert most < 12 * 2**20
