"""The one thread that owns the engine, and the asyncio side that talks to it.

In: a `load` callable, run in that thread so that the server listens meanwhile; then requests.
Out: their `TokenEvent`s, as an async iterator. Leaving the block that follows them cancels them.
An engine whose `step` raises ends every open request with a fault, and the thread goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from minimax_m1.engine.request import Engine, Request, SamplingParams, TokenEvent
from minimax_m1.errors import MiniMaxError
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.errors import Fault

_log = logging.getLogger(__name__)
_PAUSE = 0.1  # seconds between steps of an engine that keeps failing, so that it does not burn a core


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to answer. `defaults` are its own sampling settings, its `max_tokens` included.

    `guides` makes what keeps a reply to a form or a budget. `kernels` says for people on what it runs. `fingerprint`
    and `dtype` say whose memory it can take up: contexts on disk belong to one model.
    """

    engine: Engine
    tokenizer: MiniMaxM1Tokenizer
    guides: GuideMaker
    defaults: SamplingParams
    kernels: str = "none"
    fingerprint: str = ""
    dtype: str = "float32"


class Status(StrEnum):
    """Where the engine's thread stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


class Following:
    """What becomes of some requests: an async iterator of (number, event), ended when each has had its last event.

    Items come from the engine's thread in the order in which they happened. None says that the engine took one.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.loop = asyncio.get_running_loop()
        self.lines = [_Line(self, index, request) for index, request in enumerate(requests)]
        self._inbox: asyncio.Queue[_Told] = asyncio.Queue()
        self._early: deque[tuple[int, TokenEvent]] = deque()  # came while others were not taken yet

    def put(self, item: _Told) -> None:
        """Hands an item over; on the event loop."""
        self._inbox.put_nowait(item)

    def fail(self, error: Exception) -> None:
        """Has the iterator raise `error` next; on the event loop."""
        self._inbox.put_nowait(error)

    async def taken(self) -> None:
        """Waits until the engine has taken every request; raises where it refuses one."""
        left = len(self.lines)
        while left:
            item = await self._next()
            if item is None:
                left -= 1
            else:
                self._early.append(item)

    async def __aiter__(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        left = len(self.lines)
        while left:
            item = self._early.popleft() if self._early else await self._next()
            assert item is not None, "the engine takes a request once"
            left -= item[1].finish is not None
            yield item

    async def _next(self) -> tuple[int, TokenEvent] | None:
        item = await self._inbox.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One open request's way back to whoever follows it."""

    following: Following
    index: int
    request: Request


_Told = tuple[int, TokenEvent] | Exception | None


class Bridge:
    """Runs an engine in a thread of its own; calls `ready` there once requests are taken."""

    def __init__(self, load: Callable[[], Loaded], ready: Callable[[Loaded], None] | None = None) -> None:
        self._load = load
        self._ready = ready
        self._status = Status.LOADING
        self._reason = ""
        self._loaded: Loaded | None = None
        self._wake = threading.Condition()
        self._orders: deque[_Line | str] = deque()  # a line to open, or the id of a request to cancel
        self._open: dict[str, _Line] = {}  # touched by the engine's thread only
        self._thread = threading.Thread(target=self._run, name="minimax-m1-engine", daemon=True)

    @property
    def status(self) -> Status:
        """Where the thread stands."""
        return self._status

    @property
    def reason(self) -> str:
        """Why loading failed; empty otherwise."""
        return self._reason

    @property
    def loaded(self) -> Loaded:
        """The model; raises Fault (503) before it is ready and after it closed."""
        if self._loaded is None or self._status is not Status.READY:
            said = f": {self._reason}" if self._reason else ""
            raise Fault(503, f"the model is {self._status}{said}", code=f"model_{self._status}")
        return self._loaded

    def start(self) -> None:
        """Starts the thread, which loads the model first."""
        self._thread.start()

    def close(self) -> None:
        """Ends every open request and the thread; returns at once."""
        with self._wake:
            self._status = Status.CLOSED
            self._wake.notify()

    @asynccontextmanager
    async def follow(self, requests: Sequence[Request]) -> AsyncIterator[Following]:
        """Submits requests; what becomes of them comes in one stream. Leaving the block cancels what still runs.

        Raises:
            RequestError: the engine refused one of them.
            Fault: the engine failed, or is not there.
        """
        following = Following(requests)
        try:
            for line in following.lines:
                self._order(line)
            await following.taken()
            yield following
        finally:
            for line in following.lines:
                self._order(line.request.id)

    @asynccontextmanager
    async def events(self, request: Request) -> AsyncIterator[AsyncIterator[TokenEvent]]:
        """The same for one request: its events, up to and with the one that has `finish`. Raises as `follow` does."""
        async with self.follow([request]) as following:
            yield (event async for _, event in following)

    def _order(self, order: _Line | str) -> None:
        with self._wake:
            if isinstance(order, _Line):
                _ = self.loaded  # under the lock: after the thread's last look nothing is ordered
            self._orders.append(order)
            self._wake.notify()

    def _run(self) -> None:
        try:
            loaded = self._load()
        except Exception as error:  # the boundary: the server stays up to tell why
            if not isinstance(error, MiniMaxError):
                _log.exception("loading the model failed")
            self._reason = str(error) or type(error).__name__
            self._settle(Status.FAILED)
            return
        self._loaded = loaded
        self._settle(Status.READY)
        try:
            if self._ready is not None:
                self._ready(loaded)
        except Exception:  # the boundary: a closed stdout is no reason not to answer
            _log.exception("announcing the model failed")
        while self._wait(loaded.engine):
            self._obey(loaded.engine)
            self._step(loaded.engine)
        self._obey(loaded.engine)
        self._fail_all(loaded.engine, Fault(503, "the server is shutting down", code="model_closed"))

    def _settle(self, status: Status) -> None:
        with self._wake:
            if self._status is Status.LOADING:
                self._status = status

    def _wait(self, engine: Engine) -> bool:
        """Sleeps until there is something to do; False when the bridge closed."""
        with self._wake:
            while self._status is Status.READY and not (self._orders or engine.busy):
                self._wake.wait()
            return self._status is Status.READY

    def _obey(self, engine: Engine) -> None:
        """Submits and cancels what was ordered; a request that the engine cannot take ends alone."""
        with self._wake:
            orders, self._orders = self._orders, deque()
        told: list[tuple[_Line, _Told]] = []
        for order in orders:
            if not isinstance(order, _Line):
                if self._open.pop(order, None):
                    self._cancel(engine, order)
                continue
            try:
                engine.submit(order.request)
            except Exception as error:  # the boundary, for one request
                told.append((order, error))
                continue
            self._open[order.request.id] = order
            told.append((order, None))
        self._tell(engine, told)

    def _step(self, engine: Engine) -> None:
        try:
            if engine.busy:
                self._deliver(engine, engine.step())
        except Exception:  # the boundary: whoever waits is told, and the thread goes on
            _log.exception("the engine failed")
            self._fail_all(engine, RuntimeError("the engine failed"))
            time.sleep(_PAUSE)

    def _deliver(self, engine: Engine, events: list[TokenEvent]) -> None:
        told: list[tuple[_Line, _Told]] = []
        for event in events:
            line = self._open.get(event.request_id)
            if line is None:
                continue  # cancelled meanwhile
            if event.finish is not None:
                del self._open[event.request_id]
            told.append((line, (line.index, event)))
        self._tell(engine, told)

    def _tell(self, engine: Engine, told: list[tuple[_Line, _Told]]) -> None:
        """Hands a step's items over, all that go to one event loop at once: waking it costs more than the rest."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Line, _Told]]] = {}
        for line, item in told:
            by_loop.setdefault(line.following.loop, []).append((line, item))
        for loop, its in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hand_over, its)
            except RuntimeError:  # the loop is closed, and with it whoever waited
                for line, _ in its:
                    if self._open.pop(line.request.id, None):
                        self._cancel(engine, line.request.id)

    def _fail_all(self, engine: Engine, error: Exception) -> None:
        lines, self._open = list(self._open.values()), {}
        self._tell(engine, [(line, error) for line in lines])
        for line in lines:
            self._cancel(engine, line.request.id)

    def _cancel(self, engine: Engine, request_id: str) -> None:
        try:
            engine.cancel(request_id)
        except Exception:  # the boundary: nobody waits for this one any more
            _log.exception("the engine could not cancel %s", request_id)


def _hand_over(told: Sequence[tuple[_Line, _Told]]) -> None:
    for line, item in told:
        line.following.put(item)
