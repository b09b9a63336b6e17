"""A stream of events from the server, for loops and for coroutines; closing it cancels the request there.

In: what opens the answer, and the decoder of its bytes. Out: events, their text, or the whole reply.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx2

from minimax_m1.client.call import Decoder
from minimax_m1.client.errors import ConnectionFailed, TimedOut

E = TypeVar("E")
R = TypeVar("R")


def failed(error: httpx2.TransportError, url: str) -> ConnectionFailed:
    """What a failed connection is called here."""
    if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout):
        return TimedOut(f"{url} was silent for longer than the timeout")
    return ConnectionFailed(f"no answer from {url}: {str(error) or type(error).__name__}")


def _whole(reply: R | None) -> R:
    """The reply; raises ConnectionFailed where the stream ended before it."""
    if reply is None:
        raise ConnectionFailed("the stream was cut before its answer was whole")
    return reply


def _wait_for_signs_of_life(response: httpx2.Response, silence: float | None) -> None:
    """The answer has begun: from here on the server's pings count. httpx2 looks this up when the body is first read."""
    response.request.extensions["timeout"]["read"] = silence


class Stream(Generic[E, R]):
    """Events as they come; a loop over it, or a `with` round the loop. The request is sent at the first event.

    Raises, while it is read:
        APIError: the server refused or failed.
        ConnectionFailed: there is no server, or the stream was cut; TimedOut: it fell silent.
    """

    def __init__(self, answer: Callable[[], httpx2.Response], decoder: Decoder[E, R], *, silence: float | None) -> None:
        self._decoder = decoder
        self._events = _told(answer, decoder, silence)

    def __iter__(self) -> Iterator[E]:
        return self._events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves; a request that still runs ends at the server at once."""
        self._events.close()

    def text(self) -> Iterator[str]:
        """Only the text of the answer, piece by piece."""
        return (piece for event in self._events if (piece := self._decoder.text(event)))

    def reply(self) -> R:
        """The whole reply, once the rest has come."""
        for _ in self._events:
            pass
        return _whole(self._decoder.reply)


class AsyncStream(Generic[E, R]):
    """`Stream` for a coroutine; use `async with`, or `aclose`, where a loop over it may end early."""

    def __init__(
        self, answer: Callable[[], Awaitable[httpx2.Response]], decoder: Decoder[E, R], *, silence: float | None
    ) -> None:
        self._decoder = decoder
        self._events = _told_async(answer, decoder, silence)

    def __aiter__(self) -> AsyncIterator[E]:
        return self._events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leaves; a request that still runs ends at the server at once."""
        await self._events.aclose()

    async def text(self) -> AsyncIterator[str]:
        """Only the text of the answer, piece by piece."""
        async for event in self._events:
            if piece := self._decoder.text(event):
                yield piece

    async def reply(self) -> R:
        """The whole reply, once the rest has come."""
        async for _ in self._events:
            pass
        return _whole(self._decoder.reply)


# Functions rather than methods: a stream that nobody holds any more is then freed, and so closed, at once.


def _told(
    answer: Callable[[], httpx2.Response], decoder: Decoder[E, R], silence: float | None
) -> Generator[E, None, None]:
    response = answer()
    try:
        _wait_for_signs_of_life(response, silence)
        for data in response.iter_bytes():
            yield from decoder.feed(data)
    except httpx2.TransportError as error:
        if decoder.reply is None:
            raise failed(error, str(response.url)) from None
    finally:
        response.close()
    _whole(decoder.reply)


async def _told_async(
    answer: Callable[[], Awaitable[httpx2.Response]], decoder: Decoder[E, R], silence: float | None
) -> AsyncGenerator[E, None]:
    response = await answer()
    try:
        _wait_for_signs_of_life(response, silence)
        async for data in response.aiter_bytes():
            for event in decoder.feed(data):
                yield event
    except httpx2.TransportError as error:
        if decoder.reply is None:
            raise failed(error, str(response.url)) from None
    finally:
        await response.aclose()
    _whole(decoder.reply)
