"""The log and the ids in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr
from datetime import datetime
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minimax_m1.serve.access import Access, JsonFormatter, Noted, configure_logging
from minimax_m1.serve.registry import Entry, Registry, request_id

SECRET = "nobody may read this"
Work = Callable[[], Awaitable[None]]


class Counting:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def began(self, entry: Entry) -> None:
        self.heard.append(f"began {entry.id}")

    def token(self, entry: Entry, since: float | None) -> None:
        self.heard.append(f"token {entry.id}")

    def ended(self, entry: Entry) -> None:
        self.heard.append(f"ended {entry.id}")

    def routed(self, trace: object) -> None:
        self.heard.append("routed")


def saying(work: Work | None = None, *, body: bytes = b"fine", whole: bool = True) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if work is not None:
            await work()
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-request-id", b"another")]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if whole:
            await send({"type": "http.response.body", "body": b"!"})

    return app


async def nothing() -> Message:
    return {"type": "http.disconnect"}


def visit(app: ASGIApp, *headers: tuple[bytes, bytes]) -> tuple[list[Message], list[int]]:
    """What goes out and which statuses were told, for one request."""
    sent: list[Message] = []
    statuses: list[int] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": SECRET.encode(),
        "headers": list(headers), "client": ("10.0.0.7", 4711),
    }  # fmt: skip
    asyncio.run(Access(app, responded=statuses.append)(scope, nothing, send))
    return sent, statuses


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records]


def ids(sent: list[Message]) -> list[bytes]:
    return [value for name, value in sent[0]["headers"] if name == b"x-request-id"]


@pytest.fixture(autouse=True)
def loud(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="minimax_m1")


@pytest.mark.parametrize("given", [b"a", b"my-request.7", b"~" * 128])
def test_the_client_s_own_id_comes_back_and_is_logged(given: bytes, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    async def work() -> None:
        seen.append(request_id.get())

    sent, _ = visit(saying(work), (b"x-request-id", given))
    assert ids(sent) == [given] and seen == [given.decode()]
    assert [line["status"] for line in lines(caplog)] == [201]


@pytest.mark.parametrize("given", [b"", b"a b", b"a\n", b"\xe9", b"~" * 129, b"a\x00", b'{"a":\t1}', None])
def test_a_bad_id_or_none_becomes_a_new_one(given: bytes | None) -> None:
    headers = [] if given is None else [(b"x-request-id", given)]
    first, second = (ids(visit(saying(), *headers)[0])[0] for _ in range(2))
    assert re.fullmatch(rb"req_[0-9a-f]{32}", first) and first != second


def test_one_line_a_request_says_all_but_the_words(caplog: pytest.LogCaptureFixture) -> None:
    observer = Counting()
    registry = Registry(Noted(observer))

    async def work() -> None:
        for id in ("chatcmpl-1", "chatcmpl-2"):
            with registry.opened(id, "chat", answers=1, prompt_tokens=7, stop=lambda: None) as entry:
                registry.read(entry, 7, 3)
                registry.wrote(entry)
                registry.wrote(entry)
                if id == "chatcmpl-1":
                    registry.finished(entry, "stop", 3, 1, None)

    sent, statuses = visit(saying(work, body=SECRET.encode()), (b"x-request-id", b"mine"), (b"x-a", SECRET.encode()))
    assert sent[-1]["body"] == b"!" and statuses == [201]
    [line] = lines(caplog)
    assert SECRET not in str(line) + caplog.text
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert 0 <= line.pop("seconds") < 5
    answers = line.pop("answers")
    assert [0 <= answer.pop("ttft") < 5 for answer in answers] == [True, True]
    usage = {"kind": "chat", "prompt_tokens": 7, "cached_tokens": 3, "output_tokens": 2}
    assert answers == [
        {"id": "chatcmpl-1", **usage, "reasoning_tokens": 1, "finish": "stop"},
        {"id": "chatcmpl-2", **usage, "reasoning_tokens": 0, "finish": "abort"},
    ]
    assert line == {
        "level": "info", "logger": "minimax_m1.access", "message": "POST /v1/chat/completions", "request_id": "mine",
        "method": "POST", "path": "/v1/chat/completions", "status": 201, "client": "10.0.0.7",
        "bytes": len(SECRET) + 1,
    }  # fmt: skip
    assert observer.heard == [
        f"{what} {id}"
        for id in ("chatcmpl-1", "chatcmpl-2")
        for what in ("began", "token", "token", "ended")
    ]  # fmt: skip


def test_answers_that_are_made_in_another_task_belong_to_their_request(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(Noted(Counting()))

    async def answer() -> None:
        with registry.opened("a", "chat", answers=1, prompt_tokens=7, stop=lambda: None):
            pass

    async def work() -> None:
        await asyncio.ensure_future(answer())

    visit(saying(work))
    asyncio.run(answer())  # nobody's: a batch's line, say
    visit(saying())
    told = [[answer["id"] for answer in line.get("answers", [])] for line in lines(caplog)]
    assert told == [["a"], []]


def test_a_client_that_leaves_is_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    statuses = [*visit(saying(whole=False))[1], *visit(silent)[1], *visit(saying())[1]]
    told = [(line["status"], line.get("gone", False)) for line in lines(caplog)]
    assert told == [(201, True), (499, True), (201, False)]
    assert statuses == [201, 499, 201]


def test_what_breaks_is_logged_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError):
        visit(saying(work), (b"x-request-id", b"mine"))
    error, access = caplog.records
    assert error.exc_info is not None and (error.levelname, error.getMessage()) == ("ERROR", "a request failed")
    assert json.loads(JsonFormatter().format(access))["status"] == 500


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(Access(app, responded=seen.append)({"type": "lifespan"}, nothing, nothing))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_every_logger_writes_lines_of_json_from_its_level_up() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = [logging.StreamHandler(before := io.StringIO())]  # not pytest's own, which would be closed
    try:
        with redirect_stderr(io.StringIO()) as told:
            configure_logging("info")
            configure_logging("info")  # again is no second line
            request_id.set("mine")
            logging.getLogger("somebody.else").info("two\nlines of %s", "text")
            logging.getLogger("somebody.else").debug("quiet")
            try:
                raise ValueError("what broke")
            except ValueError:
                logging.getLogger("minimax_m1").exception("a request failed", extra={"fields": {"status": 500}})
    finally:
        request_id.set("")
        root.handlers, root.level = handlers, level
    assert before.getvalue() == ""
    first, second = map(json.loads, told.getvalue().splitlines())
    assert (first["message"], first["request_id"]) == ("two\nlines of text", "mine")
    assert (second["level"], second["status"]) == ("error", 500)
    assert second["error"].startswith("Traceback") and second["error"].endswith("ValueError: what broke")


def test_a_request_over_http_has_its_id(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=Access(saying(), responded=lambda _: None))
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as http:
            return await http.get("/a%0Ab?text=" + "secret", headers={"x-request-id": "mine"})

    answer = asyncio.run(ask())
    assert answer.headers["x-request-id"] == "mine"
    [line] = [line for line in lines(caplog) if line["logger"] == "minimax_m1.access"]
    assert line["path"] == "/a\nb" and "secret" not in str(line)
    assert "\n" not in JsonFormatter().format(caplog.records[-1])
