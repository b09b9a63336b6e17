"""One client's connection: reading a body with a limit, noticing that the client left, sending events.

In: the ASGI `receive` and `send` of one request. Out: bytes of the body; a result, or `ClientGone`;
a stream of server-sent events with a ping wherever nothing else was sent for a while; the fault to tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from minimax_m1.errors import RequestError
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.sse import comment

_log = logging.getLogger(__name__)
T = TypeVar("T")


class ClientGone(Exception):
    """The client left; there is nobody to answer."""


def fault_of(error: Exception) -> Fault:
    """What the client is told of `error`; what is not the client's doing is logged."""
    if not isinstance(error, Fault | RequestError):
        _log.error("a request failed", exc_info=error)
    return Fault.of(error)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        Fault: it is longer than `limit` bytes (413). As much again is read and dropped first, because
            a client that is still sending when the connection closes does not see the answer.
        ClientGone: the client left while sending.
    """
    body, length = bytearray(), 0
    try:
        async for piece in request.stream():
            length += len(piece)
            if length <= limit:
                body += piece
            elif length > 2 * limit:
                break
    except ClientDisconnect:
        raise ClientGone from None
    if length > limit:
        raise Fault(413, f"the body is longer than the limit of {limit} bytes", code="body_too_large")
    return bytes(body)


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`, which is cancelled the moment the client leaves; then raises ClientGone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_pings(pieces: AsyncGenerator[bytes, None], every: float) -> AsyncGenerator[bytes, None]:
    """The pieces, with a comment wherever none came for `every` seconds."""
    async with aclosing(pieces):
        coming = asyncio.ensure_future(anext(pieces, None))
        try:
            while True:
                await asyncio.wait({coming}, timeout=every)
                if not coming.done():
                    yield comment("ping")
                elif (piece := coming.result()) is None:
                    return
                else:
                    yield piece
                    coming = asyncio.ensure_future(anext(pieces, None))
        finally:
            # A generator may not be closed while it runs, so the step under way is ended first.
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class EventStream(Response):
    """A response of server-sent events; when the client leaves, the generator is closed at once."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, ping: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(self._send(send), receive)
        except ClientGone:
            return
        except asyncio.CancelledError:  # only a server that shuts down cancels what it runs
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(with_pings(self._pieces, self._ping)) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
