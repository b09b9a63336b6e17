"""The way to the server: one `Call` sent, tried again where that helps, and read; for loops and for coroutines.

In: `Settings` and calls. Out: what the call's answer is read as, or a `Stream`. All that both kinds of
connection share is told once, in `_prepared` and in `retry.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2

from minimax_m1.client.call import Call, LiveCall, Outgoing
from minimax_m1.client.errors import APIError, ConnectionFailed, refusal
from minimax_m1.client.settings import Settings
from minimax_m1.client.stream import AsyncStream, Stream, failed

E = TypeVar("E")
R = TypeVar("R")


@contextmanager
def _prepared(
    http: httpx2.Client | httpx2.AsyncClient, settings: Settings, out: Outgoing, key: str | None
) -> Iterator[httpx2.Request]:
    """The request to send, its file open as long as the block runs; `key` is its Idempotency-Key."""
    headers = {"user-agent": "minimax-m1"}
    if settings.api_key is not None:
        headers["authorization"] = f"Bearer {settings.api_key}"
    if key is not None:
        headers["idempotency-key"] = key
    if out.body is not None:
        headers["content-type"] = "application/json"
    with out.opened() as file:
        yield http.build_request(
            out.method,
            settings.base_url + out.path,
            content=out.body,
            data=dict(out.form) if file is not None else None,
            files=None if file is None else {"file": (_name(out), file, "application/octet-stream")},
            headers=headers,
            timeout=httpx2.Timeout(settings.timeout, connect=settings.connect),
        )


def _limits() -> httpx2.Limits:
    """As many connections as the caller makes; the server says how many are too many."""
    return httpx2.Limits(max_connections=None, max_keepalive_connections=100)


def _name(out: Outgoing) -> str:
    assert out.file is not None
    return out.file.name.encode("utf-8", "replace").decode()  # a name may hold bytes that are no text


def _key(out: Outgoing, stream: bool) -> str | None:
    """One for all attempts of a POST, so that the server does once what it is asked twice; streams have none."""
    return uuid.uuid4().hex if out.method == "POST" and not stream else None


class Connection:
    """For code that waits; may be shared by threads."""

    def __init__(self, settings: Settings, http: httpx2.Client | None) -> None:
        self._settings = settings
        self._http = httpx2.Client(limits=_limits()) if http is None else http
        self._owned = http is None
        self._dice = random.Random()

    def close(self) -> None:
        """Ends its connections, unless they are of a client of the caller's."""
        if self._owned:
            self._http.close()

    def call(self, call: Call[R]) -> R:
        """The answer, read.

        Raises:
            APIError, ConnectionFailed, UnreadableReply: as they say, after the last attempt.
        """
        return call.read(self._answer(call.out, stream=False).content)

    def stream(self, call: LiveCall[E, R]) -> Stream[E, R]:
        """The stream that answers; nothing is sent yet."""
        return Stream(lambda: self._answer(call.out, stream=True), call.decoder(), silence=self._settings.silence)

    def _answer(self, out: Outgoing, *, stream: bool) -> httpx2.Response:
        key, attempt = _key(out, stream), 0
        while True:
            error: APIError | ConnectionFailed
            try:
                with _prepared(self._http, self._settings, out, key) as request:
                    response = self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                try:
                    error = refusal(response.status_code, response.headers, response.read())
                finally:
                    response.close()
            except httpx2.TransportError as cause:
                error = failed(cause, self._settings.base_url)
            time.sleep(self._settings.retries.pause(attempt, error, self._dice))
            attempt += 1


class AsyncConnection:
    """For coroutines of one event loop."""

    def __init__(self, settings: Settings, http: httpx2.AsyncClient | None) -> None:
        self._settings = settings
        self._http = httpx2.AsyncClient(limits=_limits()) if http is None else http
        self._owned = http is None
        self._dice = random.Random()

    async def aclose(self) -> None:
        """As `Connection.close`."""
        if self._owned:
            await self._http.aclose()

    async def call(self, call: Call[R]) -> R:
        """As `Connection.call`."""
        return call.read((await self._answer(call.out, stream=False)).content)

    def stream(self, call: LiveCall[E, R]) -> AsyncStream[E, R]:
        """As `Connection.stream`."""
        return AsyncStream(lambda: self._answer(call.out, stream=True), call.decoder(), silence=self._settings.silence)

    async def _answer(self, out: Outgoing, *, stream: bool) -> httpx2.Response:
        key, attempt = _key(out, stream), 0
        while True:
            error: APIError | ConnectionFailed
            try:
                with _prepared(self._http, self._settings, out, key) as request:
                    response = await self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                try:
                    error = refusal(response.status_code, response.headers, await response.aread())
                finally:
                    await response.aclose()
            except httpx2.TransportError as cause:
                error = failed(cause, self._settings.base_url)
            await asyncio.sleep(self._settings.retries.pause(attempt, error, self._dice))
            attempt += 1
