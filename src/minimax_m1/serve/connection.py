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
            Or nothing more of it came (408).
        ClientGone: the client left while sending.
    """
    body, length = bytearray(), 0
    async with aclosing(pieces_of(request)) as pieces:
        async for piece in pieces:
            length += len(piece)
            if length <= limit:
                body += piece
            elif length > 2 * limit:
                break
    if length > limit:
        raise Fault(413, f"the body is longer than the limit of {limit} bytes", code="body_too_large")
    return bytes(body)


async def pieces_of(request: Request, *, patience: float = 30.0) -> AsyncGenerator[bytes, None]:
    """The body as it comes.

    Raises:
        Fault: nothing came for `patience` seconds (408): such a client would hold a place for ever.
        ClientGone: the client left while sending.
    """
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(patience):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        raise Fault(408, f"nothing of the body came for {patience:.0f} seconds", code="body_stalled") from None


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


class EventStream(Response):
    """A response of server-sent events; when the client leaves, the generator is closed at once.

    `ping` is how many seconds of silence bring a comment, so that nobody on the way takes the connection for dead.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, ping: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._ping = ping
        self._busy = True  # something is being sent, or nothing may be: a comment in between would break it
        self._sent = 0  # pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pinging = asyncio.ensure_future(self._keep_alive(send))
        try:
            await unless_gone(self._send(send), receive)
        except ClientGone:
            return
        except asyncio.CancelledError:  # only a server that shuts down cancels what it runs
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            pinging.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._busy = False
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                self._busy, self._sent = True, self._sent + 1
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._busy = False
        self._busy = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """A comment for each silence. It has a task of its own: a timeout for every piece would cost more than it."""
        told = comment("ping")
        while True:
            since = self._sent
            await asyncio.sleep(self._ping)
            if self._sent == since and not self._busy:
                await send({"type": "http.response.body", "body": told, "more_body": True})
