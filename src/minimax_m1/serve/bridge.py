"""The one thread that owns the engine, and the asyncio side that talks to it.

In: a `load` callable, run in that thread so that the server listens meanwhile; then requests.
Out: each request's `TokenEvent`s, as an async iterator. Leaving the iterator cancels the request.
An engine whose `step` raises ends every open request with a fault, and the thread goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
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

    `guides` makes what keeps a reply to a form or a budget. `kernels` says for people on what it runs.
    """

    engine: Engine
    tokenizer: MiniMaxM1Tokenizer
    guides: GuideMaker
    defaults: SamplingParams
    kernels: str = "none"


class Status(StrEnum):
    """Where the engine's thread stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


class _Line:
    """One open request's way back to its event loop; None says that the engine took it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.inbox: asyncio.Queue[TokenEvent | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def send(self, item: TokenEvent | Exception | None) -> bool:
        """False where the loop is gone, and with it whoever waited."""
        try:
            self._loop.call_soon_threadsafe(self.inbox.put_nowait, item)
        except RuntimeError:
            return False
        return True


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
    async def events(self, request: Request) -> AsyncIterator[AsyncIterator[TokenEvent]]:
        """Submits a request and gives its events, up to and with the one that has `finish`.

        Raises:
            RequestError: the engine refused it.
            Fault: the engine failed, or is not there.
        """
        line = _Line(request)
        self._order(line)
        try:
            await _next(line)
            yield _events(line)
        finally:
            self._order(request.id)

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
        for order in orders:
            if not isinstance(order, _Line):
                if self._open.pop(order, None):
                    self._cancel(engine, order)
                continue
            try:
                engine.submit(order.request)
            except Exception as error:  # the boundary, for one request
                order.send(error)
                continue
            self._open[order.request.id] = order
            order.send(None)

    def _step(self, engine: Engine) -> None:
        try:
            if engine.busy:
                self._deliver(engine, engine.step())
        except Exception:  # the boundary: whoever waits is told, and the thread goes on
            _log.exception("the engine failed")
            self._fail_all(engine, RuntimeError("the engine failed"))
            time.sleep(_PAUSE)

    def _deliver(self, engine: Engine, events: list[TokenEvent]) -> None:
        for event in events:
            line = self._open.get(event.request_id)
            if line is None:
                continue  # cancelled meanwhile
            if event.finish is not None:
                del self._open[event.request_id]
            if not line.send(event) and event.finish is None:
                del self._open[event.request_id]
                self._cancel(engine, event.request_id)

    def _fail_all(self, engine: Engine, error: Exception) -> None:
        lines, self._open = list(self._open.values()), {}
        for line in lines:
            line.send(error)
            self._cancel(engine, line.request.id)

    def _cancel(self, engine: Engine, request_id: str) -> None:
        try:
            engine.cancel(request_id)
        except Exception:  # the boundary: nobody waits for this one any more
            _log.exception("the engine could not cancel %s", request_id)


async def _next(line: _Line) -> TokenEvent | None:
    item = await line.inbox.get()
    if isinstance(item, Exception):
        raise item
    return item


async def _events(line: _Line) -> AsyncIterator[TokenEvent]:
    while True:
        event = await _next(line)
        assert event is not None, "the engine takes a request once"
        yield event
        if event.finish is not None:
            return
