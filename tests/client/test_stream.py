"""Streams that are cut, slow, broken, or in pieces of a byte."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from minimax_m1.client import AsyncClient, Client
from minimax_m1.client.errors import Conflict, ConnectionFailed, ServerFailed, TimedOut, Unavailable, UnreadableReply
from minimax_m1.client.events import Done, Progress, Reasoning, Text, ToolArguments, ToolCall

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
REPLY = {
    "id": "gen-1", "created": 1, "model": "nano", "text": "四", "reasoning": "r", "tool_calls": [],
    "finish_reason": "stop",
    "usage": {"input_tokens": 1, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0, "total_tokens": 2},
}  # fmt: skip


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def told(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def error(code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": "no", "type": kind, "param": None, "code": code}}


WHOLE = b"".join(
    [
        told("progress", {"processed": 2, "total": 4, "cached": 1}),
        b": ping\n\n",
        told("reasoning", {"text": "r"}),
        told("text", {"text": "四"}),
        told("tool_call", {"index": 0, "id": "c", "name": "add", "arguments": ""}),
        told("tool_arguments", {"index": 0, "text": "{}"}),
        told("weather", {"of": "a newer server"}),
        told("done", REPLY),
    ]
)
EVENTS = [
    Progress(processed=2, total=4, cached=1),
    Reasoning(text="r"),
    Text(text="四"),
    ToolCall(index=0, id="c", name="add", arguments=""),
    ToolArguments(index=0, text="{}"),
]


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_events_however_they_were_cut(raw: Any, size: int) -> None:
    pieces = [chunk(WHOLE[start : start + size]) for start in range(0, len(WHOLE), size)]
    with raw([HEAD, *pieces, END]) as server, Client(server.url) as client, client.stream(input="x") as stream:
        *events, last = stream
        assert events == EVENTS
        assert isinstance(last, Done) and last.reply == stream.reply() and last.reply.text == "四"
    assert json.loads(server.asked[0].body) == {"input": "x", "stream": True}


def test_text_and_reply_read_the_rest(raw: Any) -> None:
    with raw(*[[HEAD, chunk(WHOLE), END]] * 3) as server, Client(server.url) as client:
        assert list(client.stream(input="x").text()) == ["四"]
        assert client.stream(input="x").reply().reasoning == "r"
        stream = client.stream(input="x")
        assert next(iter(stream)) == EVENTS[0]
        assert list(stream)[:4] == EVENTS[1:]
        assert stream.reply().id == "gen-1"


def test_an_event_comes_when_it_is_whole_and_no_later(raw: Any) -> None:
    go = threading.Event()
    half = told("text", {"text": "later"})
    script = [HEAD, chunk(told("text", {"text": "now"}) + half[:9]), go, chunk(half[9:] + told("done", REPLY)), END]
    with raw(script) as server, Client(server.url) as client, client.stream(input="x") as stream:
        events = iter(stream)
        assert next(events) == Text(text="now")
        go.set()
        assert next(events) == Text(text="later")


@pytest.mark.parametrize(
    "rest",
    [
        [END],  # the server ends it properly, but has not told all
        [],  # the connection goes
        [chunk(told("done", REPLY)[:-3]), END],  # half an event
        [b"zz\r\n"],  # no HTTP any more
    ],
)
def test_a_stream_that_is_cut_says_so_after_what_came(raw: Any, rest: Sequence[bytes]) -> None:
    with raw([HEAD, chunk(told("text", {"text": "a"})), *rest]) as server, Client(server.url) as client:
        stream = client.stream(input="x")
        events = iter(stream)
        assert next(events) == Text(text="a")
        with pytest.raises(ConnectionFailed) as caught:
            next(events)
        assert not isinstance(caught.value, TimedOut)
        with pytest.raises(ConnectionFailed, match="cut"):
            stream.reply()
    assert len(server.asked) == 1


def test_a_connection_that_goes_after_the_end_does_no_harm(raw: Any) -> None:
    with raw([HEAD, chunk(WHOLE)]) as server, Client(server.url) as client:
        assert client.stream(input="x").reply().text == "四"


def test_a_stream_that_cannot_begin_is_tried_again(raw: Any) -> None:
    busy = b"HTTP/1.1 503 x\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    with raw([busy], [b""], [HEAD, chunk(WHOLE), END]) as server, Client(server.url) as client:
        assert client.stream(input="x").reply().text == "四"
    assert len(server.asked) == 3


def test_signs_of_life_keep_a_stream_open_and_silence_ends_it(raw: Any) -> None:
    pings = [piece for _ in range(8) for piece in (0.1, chunk(b": ping\n\n"))]
    alive, dead = [HEAD, *pings, chunk(WHOLE), END], [HEAD, chunk(told("text", {"text": "a"})), 1.0]
    with raw(alive, dead) as server, Client(server.url, silence=0.4) as client:
        assert client.stream(input="x").reply().text == "四"
        began = time.monotonic()
        with pytest.raises(TimedOut, match="silent for longer"), client.stream(input="x") as stream:
            list(stream)
        assert 0.4 <= time.monotonic() - began < 0.9


def test_the_silence_before_a_stream_begins_is_the_timeout_s(raw: Any) -> None:
    with raw([0.4, HEAD, chunk(WHOLE), END], [1.0]) as server:
        with Client(server.url, silence=0.1, timeout=5) as client:
            assert client.stream(input="x").reply().text == "四"
        with Client(server.url, silence=5, timeout=0.2) as client, pytest.raises(TimedOut):
            client.stream(input="x").reply()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error("request_cancelled"), Conflict),
        (error("server_busy"), Unavailable),
        (error("internal_error", "server_error"), ServerFailed),
        ({"oops": 1}, UnreadableReply),
    ],
)
def test_an_error_in_a_stream_is_raised(raw: Any, body: Any, kind: type[Exception]) -> None:
    script, events = [HEAD, chunk(told("text", {"text": "a"}) + told("error", body)), END], []
    with raw(script) as server, Client(server.url) as client, pytest.raises(kind) as caught:
        for event in client.stream(input="x"):
            assert event == Text(text="a")
            events.append(event)
    assert type(caught.value) is kind and len(events) == 1


def test_an_event_of_another_api_is_said_to_be_one(raw: Any) -> None:
    with (
        raw([HEAD, chunk(told("text", {"words": "a"})), END]) as server,
        Client(server.url) as client,
        pytest.raises(UnreadableReply, match="no TextEvent: text: Field required"),
    ):
        client.stream(input="x").reply()


def test_leaving_closes_the_connection(raw: Any) -> None:
    endless = [HEAD, *[chunk(told("text", {"text": "a" * 1000}))] * 5, *[0.01, chunk(b": ping\n\n")] * 300]
    with raw(endless, endless) as server, Client(server.url) as client:
        with client.stream(input="x") as stream:
            assert next(iter(stream)) == Text(text="a" * 1000)
        assert server.left.wait(3)
        server.left.clear()
        for _ in client.stream(input="x"):
            break  # a generator that nobody holds any more is closed
        assert server.left.wait(3)


def test_a_stream_that_nobody_reads_sends_nothing(raw: Any) -> None:
    with raw() as server, Client(server.url) as client, client.stream(input="x"):
        pass
    assert not server.asked


def test_coroutines_get_the_same(raw: Any) -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url, silence=0.4) as client:
            async with client.stream(input="x") as stream:
                events = [event async for event in stream]
                assert events[:-1] == EVENTS and events[-1] == Done(reply=await stream.reply())
            assert [piece async for piece in client.stream(input="x").text()] == ["四"]
            with pytest.raises(ConnectionFailed, match="cut"):
                await client.stream(input="x").reply()
            with pytest.raises(TimedOut):
                await client.stream(input="x").reply()
            with pytest.raises(ServerFailed):
                await client.stream(input="x").reply()

    whole = [HEAD, chunk(WHOLE), END]
    failed = [HEAD, chunk(told("error", error("x", "server_error"))), END]
    with raw(whole, whole, [HEAD, END], [HEAD, 1.0], failed) as server:
        asyncio.run(ask(server.url))


@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_a_coroutine_that_leaves_closes_the_connection(raw: Any, how: str) -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            if how == "leave":
                async with client.stream(input="x") as stream:
                    async for _ in stream:
                        break
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.stream(input="x").reply(), 0.2)

    endless = [HEAD, chunk(told("text", {"text": "a"})), *[0.01, chunk(b": ping\n\n")] * 300]
    with raw(endless) as server:
        asyncio.run(ask(server.url))
        assert server.left.wait(3)
