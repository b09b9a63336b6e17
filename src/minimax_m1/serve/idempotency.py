"""Requests that are sent again because their reply was lost: the reply is given again, the work is not done again.

In: the key that the client sent with a request, its body, and what would answer it. Out: the reply, new or kept.
Only whole replies under 500 are kept, the least recently used going first when there are too many.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.responses import FileResponse, Response, StreamingResponse

from minimax_m1.errors import RequestError
from minimax_m1.serve.connection import EventStream
from minimax_m1.wire.errors import Fault

_KEY_LENGTH = 255
_PARAM = "Idempotency-Key"


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A request under way; `done` is set when it has ended, however."""

    digest: bytes
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A reply, for requests whose body has this digest."""

    digest: bytes
    reply: Response
    until: float


class Idempotency:
    """Replies by key, for one event loop.

    Args:
        most: replies that are kept.
        nbytes: bytes that their bodies may have together.
        seconds: how long a reply is kept.
        clock: seconds, from any moment.
    """

    def __init__(
        self,
        *,
        most: int = 1024,
        nbytes: int = 64 * 2**20,
        seconds: float = 24 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._limit = nbytes
        self._seconds = seconds
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the least recently used first
        self._nbytes = 0

    async def once(self, key: str, body: bytes, run: Callable[[], Awaitable[Response]], *, scope: str = "") -> Response:
        """What `run` gives, or gave when it was asked the same before; then with `idempotent-replayed: true`.

        While the first of two runs, the second waits; where the first fails or its client leaves, the second runs.
        An exception of `run` goes to its own caller only.

        Args:
            key: the client's.
            body: of the request.
            run: answers it.
            scope: what else makes a request the same one, such as its path and who asks.

        Raises:
            RequestError: the key is empty or too long.
            Fault: the key came with another body (400; clients try again after a 409, and this will not get better).
        """
        if not 0 < len(key) <= _KEY_LENGTH:
            message = f"an idempotency key has 1 to {_KEY_LENGTH} characters, this one has {len(key)}"
            raise RequestError(message, param=_PARAM)
        digest = (await asyncio.to_thread(sha256, body) if len(body) > 2**20 else sha256(body)).digest()
        place = f"{scope}\n{key}"
        while (before := self._running.get(place) or self._known(place)) is not None:
            if before.digest != digest:
                message = f"the idempotency key {key!r} was used for another request"
                raise Fault(400, message, code="idempotency_key_reused", param=_PARAM)
            if isinstance(before, _Kept):
                return _copy(before.reply, (b"idempotent-replayed", b"true"))
            await before.done.wait()
        running = self._running[place] = _Running(digest)
        try:
            reply = await run()
            self._keep(place, digest, reply)
        finally:
            del self._running[place]
            running.done.set()
        return reply

    def _known(self, place: str) -> _Kept | None:
        kept = self._kept.get(place)
        if kept is not None and kept.until <= self._clock():
            self._forget(place)
            return None
        if kept is not None:
            self._kept.move_to_end(place)
        return kept

    def _keep(self, place: str, digest: bytes, reply: Response) -> None:
        streamed = isinstance(reply, EventStream | StreamingResponse | FileResponse)
        if streamed or reply.status_code >= 500 or len(reply.body) > self._limit:
            return
        self._kept[place] = _Kept(digest, _copy(reply), self._clock() + self._seconds)
        self._nbytes += len(reply.body)
        while len(self._kept) > self._most or self._nbytes > self._limit:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: str) -> None:
        self._nbytes -= len(self._kept.pop(place).reply.body)


def _copy(reply: Response, *headers: tuple[bytes, bytes]) -> Response:
    """The reply as a response of its own, because who sends one may add to it; with more headers."""
    copy = Response(reply.body, reply.status_code)
    copy.raw_headers = [*reply.raw_headers, *headers]
    return copy
