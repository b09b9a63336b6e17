"""`Driver`: the one place that calls the engine, for all threads and coroutines that wait on it.

In: jobs. Out: `Told`s, each job's events with their text. One thread at a time is at the engine. Whoever needs an event
runs the next step for everybody, or waits for the step that somebody else runs; a thread of its own does it for
coroutines, as long as there are any. Orders to submit and to cancel never wait: whoever is at the engine carries them
out before leaving.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial

from minimax_m1.engine.request import Engine, FinishReason, TokenEvent
from minimax_m1.errors import RequestError
from minimax_m1.llm.job import Job

_log = logging.getLogger(__name__)

Told = tuple[Job, str, TokenEvent]  # the text is what this event made safe to show
Tell = Callable[[Told | Exception], object]


class Driver:
    """Runs one engine for everybody. Leaving an iterator early cancels its jobs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._open: dict[str, tuple[Job, Tell]] = {}  # touched only at the engine
        self._turn = threading.Condition()  # guards what follows; held for moments only
        self._holder: int | None = None  # the thread that is at the engine
        self._orders: deque[Callable[[], None]] = deque()
        self._elsewhere: set[str] = set()  # requests that coroutines wait for
        self._worker: threading.Thread | None = None

    def follow(self, jobs: Sequence[Job]) -> Generator[Told]:
        """Runs the jobs and gives what happens until all have ended; raises where the engine refuses one of them."""
        inbox: deque[Told | Exception] = deque()
        left = len(jobs)
        self._submit(jobs, inbox.append, elsewhere=False)
        try:
            while left:
                if not inbox:
                    self._step()
                    continue
                told = _checked(inbox.popleft())
                left -= told[2].finish is not None
                yield told
        finally:
            self._cancel(jobs)

    async def follow_async(self, jobs: Sequence[Job]) -> AsyncGenerator[Told]:
        """The same for a coroutine, which never blocks its event loop."""
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Told | Exception] = asyncio.Queue()
        left = len(jobs)
        self._submit(jobs, lambda item: loop.call_soon_threadsafe(inbox.put_nowait, item), elsewhere=True)
        try:
            while left:
                told = _checked(await inbox.get())
                left -= told[2].finish is not None
                yield told
        finally:
            self._cancel(jobs)

    def _submit(self, jobs: Sequence[Job], tell: Tell, *, elsewhere: bool) -> None:
        """All of the jobs or none."""

        def submit() -> None:
            try:
                for job in jobs:
                    self.engine.submit(job.request)
                    self._open[job.request.id] = job, tell
            except Exception as error:  # the boundary: whoever gave the jobs is told
                self._drop(jobs)
                tell(error)

        if elsewhere and jobs:
            with self._turn:
                self._elsewhere.update(job.request.id for job in jobs)
                if self._worker is None:
                    self._worker = threading.Thread(target=self._work, name="minimax-m1-llm")
                    self._worker.start()
        self._order(submit)

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Without effect on those that have ended."""
        self._order(partial(self._drop, jobs))

    def _order(self, order: Callable[[], None]) -> None:
        """Has it carried out, here or by whoever is at the engine; never waits."""
        with self._turn:
            self._orders.append(order)
            if self._holder is not None:
                return
            self._holder = threading.get_ident()
        self._leave()

    def _step(self) -> None:
        """One step of the engine for everybody, or the wait for the end of the one that somebody else runs."""
        with self._turn:
            if self._holder is not None:
                if self._holder == threading.get_ident():
                    raise RequestError("what the engine calls, such as save, cannot call the engine")
                self._turn.wait()
                return
            self._holder = threading.get_ident()
        try:
            self._hear(self.engine.step())
        except Exception as error:  # the boundary: an engine that fails ends what is open, and those who wait are told
            _log.exception("the engine failed")
            jobs = [job for job, _ in self._open.values()]
            said = f"the engine failed: {type(error).__name__}: {error}"
            self._hear([_given_up(job, said) for job in jobs])
            self._cancel(jobs)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Carries out what was ordered meanwhile; then the engine is free."""
        while True:
            with self._turn:
                if not self._orders:
                    self._holder = None
                    self._turn.notify_all()
                    return
                order = self._orders.popleft()
            try:
                order()
            except Exception:  # the boundary: an order that fails must not keep the engine
                _log.exception("the engine could not submit or cancel")

    def _hear(self, events: Sequence[TokenEvent]) -> None:
        for event in events:
            if (held := self._open.get(event.request_id)) is None:
                continue  # cancelled meanwhile
            job, tell = held
            if event.finish is not None:
                del self._open[event.request_id]
                self._elsewhere.discard(event.request_id)
            try:
                tell((job, job.take(event), event))
            except RuntimeError:  # its event loop is closed, so nobody waits
                self._cancel([job])

    def _drop(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._open.pop(job.request.id, None)
            self._elsewhere.discard(job.request.id)
        for job in jobs:
            self.engine.cancel(job.request.id)

    def _work(self) -> None:
        """Steps for coroutines, in a thread that ends with the last of them."""
        while True:
            with self._turn:
                if not self._elsewhere:
                    self._worker = None
                    return
            self._step()


def _checked(item: Told | Exception) -> Told:
    if isinstance(item, Exception):
        raise item
    return item


def _given_up(job: Job, error: str) -> TokenEvent:
    prompt = len(job.request.prompt)
    return TokenEvent(
        request_id=job.request.id, token_id=None, finish=FinishReason.ABORT, prompt_tokens=prompt, error=error
    )
