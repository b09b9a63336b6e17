"""Retries, keys, timeouts and errors, against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import random
import time
from email.utils import formatdate
from typing import Any

import pytest

from minimax_m1.client import AsyncClient, Client
from minimax_m1.client.errors import (
    APIError,
    BadRequest,
    Conflict,
    ConnectionFailed,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerFailed,
    TimedOut,
    Unavailable,
    UnreadableReply,
    refusal,
)
from minimax_m1.client.retry import Retries
from minimax_m1.errors import MiniMaxError, RequestError
from minimax_m1.wire.errors import Fault

REPLY = {
    "id": "gen-1", "object": "generation", "created": 1, "model": "nano", "text": "4", "reasoning": "",
    "tool_calls": [], "finish_reason": "stop",
    "usage": {"input_tokens": 1, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0, "total_tokens": 2},
}  # fmt: skip


def answer(status: int, body: Any = None, **headers: str) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-length": str(len(data)), "connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} x\r\n{head}\r\n".encode() + data


def refused(status: int, code: str = "x", **headers: str) -> bytes:
    return answer(status, {"error": {"message": "no", "type": "t", "param": "p", "code": code}}, **headers)


OK = [answer(200, REPLY)]
AGAIN = {"retry_after": "0"}


def test_the_request_says_what_was_asked_and_who_asks(raw: Any) -> None:
    with raw(OK) as server, Client(server.url + "/v1/", api_key="secret") as client:
        assert client.generate(input="2 + 2", max_output_tokens=9, seed=None).text == "4"
    [asked] = server.asked
    assert asked.line == "POST /v1/minimax-m1/generate HTTP/1.1"
    assert json.loads(asked.body) == {"input": "2 + 2", "max_output_tokens": 9, "stream": False}
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["content-type"] == "application/json"
    assert len(asked.headers["idempotency-key"]) == 32


def test_place_and_key_come_from_the_environment(raw: Any, monkeypatch: Any) -> None:
    with raw(OK, OK) as server:
        monkeypatch.setenv("MINIMAX_M1_BASE_URL", server.url)
        monkeypatch.setenv("MINIMAX_M1_API_KEY", "kept")
        with Client() as client:
            client.generate(input="x")
        monkeypatch.delenv("MINIMAX_M1_API_KEY")
        with Client() as client:
            client.generate(input="x")
    assert [each.headers.get("authorization") for each in server.asked] == ["Bearer kept", None]


@pytest.mark.parametrize(
    "trouble",
    [
        [refused(503, **AGAIN)],
        [refused(429, **AGAIN)],
        [refused(500, **AGAIN)],
        [refused(502, **AGAIN)],
        [b""],  # closed without a word
        [b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"],  # cut
    ],
)
def test_trouble_that_may_pass_is_tried_again_with_the_same_key(raw: Any, trouble: Any) -> None:
    with raw(trouble, trouble, OK) as server, Client(server.url) as client:
        assert client.generate(input="x").text == "4"
    assert len(server.asked) == 3
    assert len({each.headers["idempotency-key"] for each in server.asked}) == 1
    assert len({each.body for each in server.asked}) == 1


def test_an_async_client_tries_again_too(raw: Any) -> None:
    async def ask(url: str) -> str:
        async with AsyncClient(url) as client:
            return (await client.generate(input="x")).text

    with raw([refused(503, **AGAIN)], [b""], OK) as server:
        assert asyncio.run(ask(server.url)) == "4"
    assert len({each.headers["idempotency-key"] for each in server.asked}) == 1


def test_each_call_has_a_key_of_its_own_and_streams_have_none(raw: Any) -> None:
    with raw(OK, OK, [refused(400)]) as server, Client(server.url) as client:
        client.generate(input="x")
        client.generate(input="x")
        with pytest.raises(BadRequest), client.stream(input="x") as stream:
            list(stream)
    first, second, third = (each.headers.get("idempotency-key") for each in server.asked)
    assert first != second and third is None


def test_a_retry_waits_as_long_as_the_server_asked(raw: Any) -> None:
    with raw([refused(503, retry_after="0.3")], OK) as server, Client(server.url) as client:
        began = time.monotonic()
        client.generate(input="x")
    assert 0.3 <= time.monotonic() - began < 3


def test_a_server_that_asks_for_too_long_is_not_waited_for(raw: Any) -> None:
    with (
        raw([refused(429, retry_after="3600")]) as server,
        Client(server.url) as client,
        pytest.raises(RateLimited) as caught,
    ):
        client.generate(input="x")
    assert caught.value.retry_after == 3600


def test_retries_end(raw: Any) -> None:
    trouble = [refused(503, "model_loading", **AGAIN)]
    with (
        raw(trouble, trouble) as server,
        Client(server.url, max_retries=1) as client,
        pytest.raises(Unavailable, match="no"),
    ):
        client.generate(input="x")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, PermissionDenied),
        (403, PermissionDenied),
        (404, NotFound),
        (409, Conflict),
        (413, BadRequest),
        (418, APIError),
        (429, RateLimited),
        (500, ServerFailed),
        (503, Unavailable),
    ],
)
def test_each_status_has_its_error(raw: Any, status: int, kind: type[APIError]) -> None:
    answered = refused(status, "why", x_request_id="req-1", retry_after="61")
    with raw([answered]) as server, Client(server.url) as client, pytest.raises(APIError) as caught:
        client.generate(input="x")
    error = caught.value
    assert type(error) is kind and isinstance(error, Fault) and isinstance(error, MiniMaxError)
    assert (error.status, error.code, error.param, str(error)) == (status, "why", "p", "no")
    assert (error.request_id, error.retry_after) == ("req-1", 61.0)


def test_a_retry_after_may_be_a_date_or_nonsense() -> None:
    for told, least, most in [(formatdate(time.time() + 50, usegmt=True), 45, 51), (formatdate(0), 0, 0), ("-3", 0, 0)]:
        error = refusal(503, {"retry-after": told}, b"")
        assert error.retry_after is not None and least <= error.retry_after <= most
    assert refusal(503, {"retry-after": "soon"}, b"").retry_after is None


def test_a_refusal_in_another_shape_is_told_as_it_is(raw: Any) -> None:
    with raw([answer(404, b"<html>nothing here")], [answer(404)]) as server, Client(server.url) as client:
        with pytest.raises(NotFound, match="<html>nothing here"):
            client.generate(input="x")
        with pytest.raises(NotFound, match="the server answered with status 404"):
            client.generate(input="x")


@pytest.mark.parametrize("body", [b"", b"hello", {"id": 1}])
def test_an_answer_of_another_api_is_said_to_be_one(raw: Any, body: Any) -> None:
    with (
        raw([answer(200, body)]) as server,
        Client(server.url) as client,
        pytest.raises(UnreadableReply, match="no GenerateReply"),
    ):
        client.generate(input="x")


def test_nobody_there(raw: Any) -> None:
    with raw() as server:
        pass
    with Client(server.url, max_retries=0) as client, pytest.raises(ConnectionFailed, match=server.url):
        client.generate(input="x")


def test_silence_is_a_timeout_and_not_tried_again(raw: Any) -> None:
    with (
        raw([1.0], OK) as server,
        Client(server.url, timeout=0.2) as client,
        pytest.raises(TimedOut, match="silent for longer"),
    ):
        client.generate(input="x")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://127.0.0.1:port"}, "base_url"),
        ({"base_url": "http:///v1"}, "base_url"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"timeout": 0}, "timeout"),
        ({"silence": float("nan")}, "silence"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_argument_out_of_range_is_named(kind: Any, arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=param) as caught:
        kind(**arguments)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "x", "colour": "red"}, "colour"),
        ({"input": "x", "stream": True}, "stream"),
        ({"input": "x", "temperature": "hot"}, "temperature"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({}, "input"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"input": "x", "stop": object()}, None),
        ({"input": "\ud800"}, None),
    ],
)
def test_a_wrong_field_is_refused_before_it_is_sent(raw: Any, fields: dict[str, Any], param: str | None) -> None:
    with raw() as server, Client(server.url) as client:
        for ask in (client.generate, client.stream):
            with pytest.raises(RequestError) as caught:
                ask(**fields)
            assert caught.value.param == param
    assert not server.asked


def test_a_wrong_chat_field_is_refused_before_it_is_sent(raw: Any) -> None:
    messages = [{"role": "user", "content": "x"}]
    with raw() as server, Client(server.url) as client:
        for fields in ({"max_output_tokens": 3}, {"n": 0}, {"stream": True}, {"messages": []}):
            for ask in (client.chat, client.chat_stream):
                with pytest.raises((RequestError, TypeError)):
                    ask(messages, **fields)
        with pytest.raises(RequestError, match="at least 1"):
            client.chat([])


def test_pauses_double_up_to_a_limit_and_vary() -> None:
    plan, dice = Retries(most=9), random.Random(0)
    error = ConnectionFailed("x")
    pauses = [plan.pause(attempt, error, dice) for attempt in range(9)]
    for attempt, pause in enumerate(pauses):
        most = min(8.0, 0.5 * 2**attempt)
        assert most / 2 <= pause <= most
    assert len(set(pauses)) == 9
    with pytest.raises(ConnectionFailed):
        plan.pause(9, error, dice)
