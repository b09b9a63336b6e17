"""One reading: what a context is to hold goes through the engine once, beside all else, and to disk as it goes.

In: a plan, which makes the `Reading` off the event loop, since encoding a long text takes a while. Out: `Step`s. While
it runs the registry lists it, with its progress, and can cancel it; there is one at a time for a context.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from minimax_m1.engine.context_writer import ContextWriter
from minimax_m1.engine.reading import Reading
from minimax_m1.engine.request import FinishReason, Request, SamplingParams
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.serve.contexts import READING, conflict, folder_of, reading_id, reading_of
from minimax_m1.serve.registry import Entry
from minimax_m1.serve.service import Service
from minimax_m1.wire.errors import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """So many tokens have been read, of how many; `total` is None until they are counted."""

    processed: int
    total: int | None


_Steps = asyncio.Queue[Step | Exception | None]


async def read(
    service: Service, id: str, plan: Callable[[], Reading], *, pool: Executor, save_every: int
) -> AsyncGenerator[Step, None]:
    """Reads a context; the first step comes at once, and closing the generator ends the reading at its last save.

    `plan` is called in a thread of `pool`.

    Raises:
        RequestError: what was given cannot be read.
        Fault: the context cannot take it, is being read, or somebody cancelled (409), or the engine failed.
    """
    if reading_of(service, id) is not None:
        raise Fault(409, f"the context {id!r} is being read already", code="context_busy", param="name")
    steps: _Steps = asyncio.Queue()
    cancelled = Fault(409, f"the reading of the context {id!r} was cancelled", code="request_cancelled")

    def stop() -> None:
        steps.put_nowait(cancelled)

    with service.registry.opened(reading_id(id), READING, answers=1, prompt_tokens=0, stop=stop, context=id) as entry:
        work = asyncio.create_task(_work(service, id, entry, pool, plan, save_every, steps))
        try:
            yield Step(processed=0, total=None)
            while (step := await steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _work(
    service: Service,
    id: str,
    entry: Entry,
    pool: Executor,
    plan: Callable[[], Reading],
    save_every: int,
    steps: _Steps,
) -> None:
    door = _Door()
    try:
        try:
            made = await asyncio.get_running_loop().run_in_executor(pool, plan)
            writer = await asyncio.to_thread(door.open, made)
            await _through_the_engine(service, entry, made, writer, door, save_every, steps)
        finally:
            # The engine's thread may be writing still, so this waits for it, and not on the event loop.
            await asyncio.to_thread(door.close)
    except CheckpointError as error:
        steps.put_nowait(conflict(error, folder_of(service, id), id))
    except Exception as error:  # carried to whoever follows
        steps.put_nowait(error)
    else:
        steps.put_nowait(None)


async def _through_the_engine(
    service: Service,
    entry: Entry,
    made: Reading,
    writer: ContextWriter,
    door: _Door,
    save_every: int,
    steps: _Steps,
) -> None:
    total, there = len(made.ids), writer.manifest.tokens
    entry.prompt_tokens = total
    service.registry.read(entry, there, there)
    steps.put_nowait(Step(processed=there, total=total))
    if writer.manifest.complete:
        service.registry.finished(entry, "stop", there, 0, None)
        return
    request = Request(
        id=uuid.uuid4().hex,
        prompt=made.ids,
        params=SamplingParams(max_tokens=0),
        past=writer.past,
        save=door.save,
        save_every=save_every,
        routing=True,
    )
    async with service.bridge.events(request) as events:
        async for event in events:
            if event.finish is FinishReason.ABORT:
                raise Fault(500, event.error or "the reading was cancelled", code="reading_failed")
            service.registry.read(entry, event.prefilled_tokens, there)
            steps.put_nowait(Step(processed=event.prefilled_tokens, total=total))
            if event.finish is not None:
                service.registry.finished(entry, "stop", there, 0, event.routing)


class _Door:
    """A writer that one thread may close while another opens it or saves through it; then the other is told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._writer: ContextWriter | None = None

    def open(self, made: Reading) -> ContextWriter:
        """Opens the folder; raises CheckpointError as `Reading.writer`."""
        with self._lock:
            if self._closed:
                raise RequestError("the reading was cancelled")
            self._writer = made.writer()
            return self._writer

    def save(self, snapshot: Snapshot) -> None:
        """As `ContextWriter.save`."""
        with self._lock:
            if self._closed:
                raise RequestError("the reading was cancelled")
            assert self._writer is not None
            self._writer.save(snapshot)

    def close(self) -> None:
        """Waits for who is inside, lets go of the folder, and lets nobody in again."""
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
