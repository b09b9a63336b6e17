"""Clients that do what they should not, while somebody else is being answered: the stream must not notice.

Sockets are written by hand, since no client library can be made to misbehave like this.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from minimax_m1.wire.sse import EventReader

NATIVE = "/v1/minimax-m1/generate"
GAP = 2.0  # seconds between two pieces of a stream whose steps take 30 ms; the machine may be busy
COUNT = "one two three four five six seven eight nine ten " * 400


def head(method: str = "POST", path: str = NATIVE, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def asking(question: dict[str, Any]) -> bytes:
    body = json.dumps(question).encode()
    return head("POST", NATIVE, f"Content-Length: {len(body)}") + body


def connect(served: Any) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@contextmanager
def somebody_answered(served: Any) -> Iterator[None]:
    """A stream that runs beside the block; at the end it was smooth so far and every word of it right."""
    begun, over = threading.Event(), threading.Event()

    def read() -> tuple[str, float]:
        reader, text, longest = EventReader(), "", 0.0
        with served.client() as client, client.stream("POST", NATIVE, json={"input": "count", "stream": True}) as got:
            last = time.monotonic()
            for piece in got.iter_raw():
                for event in reader.feed(piece):
                    if event.name == "text":
                        now = time.monotonic()
                        longest, last = max(longest, now - last), now
                        text += json.loads(event.data)["text"]
                        begun.set()
                if over.is_set():
                    break
            longest = max(longest, time.monotonic() - last)
        return text, longest

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            assert begun.wait(20)
            yield
        finally:
            over.set()
        text, longest = reading.result(20)
    assert text and COUNT.startswith(text), text
    assert longest < GAP, f"{longest:.2f} s without a word"


def status_of(connection: socket.socket) -> int:
    """The status of the answer, once the connection is closed or has told it."""
    told = b""
    while b"\r\n" not in told and (piece := connection.recv(4096)):
        told += piece
    return int(told.split()[1]) if told else 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # somebody speaks TLS
        b"\r\n\r\n\x00\xff\r\n\r\n",
        b"POST /v1/minimax-m1/generate HTTP/9.9\r\n\r\n",
        head("POST", NATIVE, "Content-Length: -5"),
        head("POST", NATIVE, "Content-Length: 5", "Content-Length: 7") + b"{}",
        head("POST", NATIVE, "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_not_http_is_refused(slow: Any, garbage: bytes) -> None:
    with somebody_answered(slow), connect(slow) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        assert status_of(connection) in (0, 400, 501, 505)


def test_headers_without_end_are_refused(slow: Any) -> None:
    with somebody_answered(slow), connect(slow) as connection:
        connection.sendall(head()[:-2])
        with contextlib.suppress(ConnectionError):  # the server hangs up, with a status or without
            for _ in range(64):
                connection.sendall(b"x-more: " + b"y" * 65_536 + b"\r\n")
            assert status_of(connection) in (0, 400, 431)


def test_requests_that_do_not_wait_for_the_answer_before_get_theirs_in_order(slow: Any) -> None:
    with somebody_answered(slow), connect(slow) as connection:
        connection.sendall(b"".join(asking({"input": text}) for text in ("2 + 2", "hello", "snow")))
        told = b""
        while told.count(b'"finish_reason"') < 3 and (piece := connection.recv(65_536)):
            told += piece
    places = [told.index(text.encode()) for text in ('"text":"4"', "how are you", "❄")]
    assert places == sorted(places)


def test_a_client_that_is_killed_frees_its_slot(slow: Any) -> None:
    with somebody_answered(slow):
        connection = connect(slow)
        connection.sendall(asking({"input": "count", "stream": True}))
        assert connection.recv(4096)
        until(lambda: len(slow.engine.requests) == 2)
        # No goodbye: what a killed process leaves is a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
        until(lambda: slow.engine.requests[1].id in slow.engine.cancelled, 3)
        assert slow.engine.requests[0].id not in slow.engine.cancelled


def test_half_a_body_holds_nobody_up(slow: Any) -> None:
    with somebody_answered(slow), ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(slow)).sendall(head("POST", NATIVE, "Content-Length: 100") + b'{"inp')
        with slow.client() as client:
            assert client.post(NATIVE, json={"input": "2 + 2"}).json()["text"] == "4"
    assert len(slow.engine.requests) == 2  # nothing of a half question reached the engine


def test_who_reads_slowly_holds_nobody_up(slow: Any) -> None:
    with somebody_answered(slow), connect(slow) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(asking({"input": "count", "stream": True}))
        for _ in range(20):
            assert connection.recv(1)
            time.sleep(0.05)


@pytest.mark.parametrize("half", [False, True])
def test_hundreds_of_connections_that_say_nothing_hold_nobody_up(slow: Any, half: bool) -> None:
    """A thousand of both in `make slow`."""
    _crowd(slow, 200, half)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_thousand_connections_that_say_nothing_hold_nobody_up(slow: Any, half: bool) -> None:
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, min(most, 4096)), most))
    _crowd(slow, 1000, half)


def _crowd(served: Any, count: int, half: bool) -> None:
    with somebody_answered(served), ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(connect(served))
            if half:
                connection.sendall(head()[:30])
        with served.client() as client:
            assert client.post(NATIVE, json={"input": "2 + 2"}).json()["text"] == "4"
            assert client.get("/health").status_code == 200


@pytest.mark.slow
def test_a_prompt_of_50_mb_is_refused_soon_and_the_others_go_on(tmp_path: Path) -> None:
    """nano in a process of its own, whose memory is looked at."""
    command = [sys.executable, "-m", "minimax_m1", "serve", "--port", "0", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = line[line.index("http://") :].split()[0]
            with httpx2.Client(base_url=url, timeout=120) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
                question = {"input": "Tell a story.", "stream": True, "ignore_eos": True, "max_output_tokens": 800}

                def gaps() -> list[float]:
                    with httpx2.Client(timeout=120) as other, other.stream("POST", url + NATIVE, json=question) as got:
                        times = [time.monotonic() for _ in got.iter_raw()]
                    return [b - a for a, b in itertools.pairwise(times)]

                other = pool.submit(gaps)
                before, began = _peak(process.pid), time.monotonic()
                answer = client.post(NATIVE, json={"input": "All work and no play. " * (50 * 2**20 // 22)})
                spent = time.monotonic() - began
                assert answer.status_code in (400, 413), answer.text[:200]
                assert answer.json()["error"]["code"] in ("context_length_exceeded", "body_too_large")
                assert spent < 30 and _peak(process.pid) - before < 1500, (spent, before, _peak(process.pid))
                assert max(other.result(120)) < 5 * GAP
        finally:
            process.kill()


def _peak(pid: int) -> int:
    """MiB of memory that a process held at most."""
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text("ascii").splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) // 1024
