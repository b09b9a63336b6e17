"""Contexts: what is sent for each, against a server of bytes; and a life of one, against the real server."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.client import AsyncClient, Client
from minimax_m1.client.errors import Conflict, ConnectionFailed
from minimax_m1.errors import RequestError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
BOOK = {
    "id": "book", "object": "context", "created": 1, "status": "ready", "kind": "text", "tokens": 9, "total": 9,
    "bytes": 99, "model": "nano", "sources": ["text"], "messages": 0, "error": None,
}  # fmt: skip
READ = [
    HEAD,
    b'event: progress\ndata: {"id": "book", "processed": 0, "total": null}\n\n: ping\n\n',
    b'event: progress\ndata: {"id": "book", "processed": 5, "total": 9}\n\n',
    f"event: done\ndata: {json.dumps(BOOK)}\n\n".encode(),
]
HEARD = [(0, None), (5, 9)]


def whole(body: Any) -> list[bytes]:
    data = json.dumps(body).encode()
    return [f"HTTP/1.1 200 OK\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data]


def test_a_text_is_read_with_progress(raw: Any) -> None:
    heard: list[Any] = []
    with raw(READ, READ) as server, Client(server.url) as client:
        book = client.contexts.create("book", text="Once", save_every=512, on_progress=lambda *told: heard.append(told))
        assert (book.id, book.status, heard) == ("book", "ready", HEARD)
        assert client.contexts.extend("book", texts={"two": "upon"}).tokens == 9
    create, extend = server.asked
    assert create.line == "POST /v1/contexts HTTP/1.1"
    assert json.loads(create.body) == {
        "name": "book", "text": "Once", "save_every": 512, "stream": True, "background": False,
    }  # fmt: skip
    assert extend.line == "POST /v1/contexts/book/extend HTTP/1.1"
    assert json.loads(extend.body) == {"texts": {"two": "upon"}, "stream": True, "background": False}


def form_of(asked: Any) -> dict[str, bytes]:
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    parts = asked.body.split(b"--" + boundary)[1:-1]
    split = [part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n") for part in parts]
    return {head.partition(b'name="')[2].partition(b'"')[0].decode(): body for head, _, body in split}


def test_a_file_is_sent_whole_with_its_name_and_sent_again_on_a_retry(raw: Any, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3_000_000)
    (tmp_path / "a book.txt").write_bytes(data)
    heard: list[Any] = []
    with raw([b""], READ) as server, Client(server.url) as client:
        where = tmp_path / "a book.txt"
        client.contexts.create("book", path=where, model="nano", on_progress=lambda *told: heard.append(told))
    for asked in server.asked:
        assert asked.headers["content-type"].startswith("multipart/form-data")
        assert b'filename="a book.txt"' in asked.body[:1000]
        fields = {"name": b"book", "model": b"nano", "stream": b"true", "background": b"false"}
        assert form_of(asked) == {**fields, "file": data}
    assert heard == HEARD


def test_a_file_s_name_need_not_be_text(raw: Any, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"b\xffk.txt")
    odd.write_text("Once")
    with raw(READ) as server, Client(server.url) as client:
        assert client.contexts.create("book", path=odd).id == "book"
    assert b'filename="b?k.txt"' in server.asked[0].body


def test_a_reading_in_the_background_comes_back_at_once(raw: Any, tmp_path: Path) -> None:
    (tmp_path / "book").write_text("Once")
    reading = {**BOOK, "status": "reading", "total": None}
    with raw(whole(reading), whole(reading)) as server, Client(server.url) as client:
        assert client.contexts.create(text="Once", background=True).status == "reading"
        assert client.contexts.extend("book", path=str(tmp_path / "book"), background=True).total is None
    text, file = server.asked
    assert json.loads(text.body) == {"text": "Once", "stream": False, "background": True}
    assert form_of(file) == {"file": b"Once", "stream": b"false", "background": b"true"}
    assert text.headers["idempotency-key"] != file.headers["idempotency-key"]


def test_questions_go_to_their_context(raw: Any) -> None:
    usage = {"input_tokens": 1, "cached_tokens": 1, "output_tokens": 1, "reasoning_tokens": 0, "total_tokens": 2}
    reply = {"id": "gen-1", "created": 1, "model": "nano", "text": "4", "reasoning": "", "tool_calls": []}
    reply |= {"finish_reason": "stop", "usage": usage}
    stream = [HEAD, b'event: text\ndata: {"text": "4"}\n\n', f"event: done\ndata: {json.dumps(reply)}\n\n".encode()]
    with raw(whole(reply), stream) as server, Client(server.url) as client:
        assert client.contexts.ask("a b/c", "How many?", max_output_tokens=5).text == "4"
        assert list(client.contexts.ask_stream("a", "How many?").text()) == ["4"]
    first, second = server.asked
    assert first.line == "POST /v1/contexts/a%20b%2Fc/ask HTTP/1.1"
    assert json.loads(first.body) == {"question": "How many?", "max_output_tokens": 5, "stream": False}
    assert json.loads(second.body) == {"question": "How many?", "stream": True}


def test_the_small_calls(raw: Any) -> None:
    gone = {"id": "book", "object": "context.deleted", "deleted": True}
    with raw(whole({"data": [BOOK]}), whole(BOOK), whole(BOOK), whole(gone)) as server, Client(server.url) as client:
        assert [book.id for book in client.contexts.list()] == ["book"]
        assert client.contexts.get("book").sources == ["text"]
        assert client.contexts.branch("book", "copy").id == "book"
        assert client.contexts.delete("book").deleted
    assert [asked.line.removesuffix(" HTTP/1.1") for asked in server.asked] == [
        "GET /v1/contexts",
        "GET /v1/contexts/book",
        "POST /v1/contexts/book/branch",
        "DELETE /v1/contexts/book",
    ]
    assert json.loads(server.asked[2].body) == {"name": "copy"}


def test_coroutines_get_the_same(raw: Any, tmp_path: Path) -> None:
    (tmp_path / "book").write_bytes(b"x" * 200_000)
    heard: list[Any] = []

    async def live(url: str) -> None:
        async with AsyncClient(url) as client:
            here = client.contexts
            book = await here.create("book", path=tmp_path / "book", on_progress=lambda *told: heard.append(told))
            assert book.tokens == 9
            assert (await here.extend("book", text="more", background=True)).id == "book"
            assert (await here.get("book")).id == "book"

    with raw(READ, whole(BOOK), whole(BOOK)) as server:
        asyncio.run(live(server.url))
    assert form_of(server.asked[0])["file"] == b"x" * 200_000 and heard == HEARD


def test_a_reading_that_fails_is_an_error(raw: Any) -> None:
    conflict = {"error": {"message": "another text", "type": "invalid_request_error", "code": "context_conflict"}}
    failing = [HEAD, f"event: error\ndata: {json.dumps(conflict)}\n\n".encode()]
    with raw(failing, [HEAD]) as server, Client(server.url) as client:
        with pytest.raises(Conflict, match="another text"):
            client.contexts.create("book", text="Once")
        with pytest.raises(ConnectionFailed, match="cut"):
            client.contexts.create("book", text="Once")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text"),
        ({"text": "a", "file_id": "b"}, "text"),
        ({"text": ""}, "text"),
        ({"text": "a", "colour": "red"}, "colour"),
        ({"text": "a", "stream": False}, "stream"),
        ({"text": "a", "save_every": 1}, "save_every"),
        ({"name": "../up", "text": "a"}, "name"),
        ({"path": __file__, "text": "a"}, "text"),
        ({"path": __file__, "name": "../up"}, "name"),
        ({"path": __file__, "save_every": 1}, "save_every"),
        ({"path": "/no/such/file"}, "path"),
        ({"path": "/"}, "path"),
    ],
)
def test_what_cannot_be_read_is_refused_before_it_is_sent(raw: Any, fields: dict[str, Any], param: str) -> None:
    with raw() as server, Client(server.url) as client, pytest.raises(RequestError) as caught:
        client.contexts.create(**fields)
    assert caught.value.param == param and not server.asked


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_an_id_that_is_none_goes_nowhere(raw: Any, id: str) -> None:
    with raw() as server, Client(server.url) as client:
        for ask in (client.contexts.get, client.contexts.delete, client.contexts.branch):
            with pytest.raises(RequestError, match="is no id"):
                ask(id)
    assert not server.asked
