"""Responses that are made in the background: what works on them outlives the connection that asked.

In: the events of a `Draft`, as an async generator. Out: a `Run`, whose events anyone may follow from any place, and
which is over once its generator is. One `Background` serves one application.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from minimax_m1.serve.responses_stream import Draft
from minimax_m1.wire.responses_events import Numbered

_PATIENCE = 5.0  # seconds that a server which stops waits for what runs to say so


class Run:
    """One response under way. `recorded` keeps its events, so that they can be followed."""

    def __init__(self, draft: Draft, events: AsyncGenerator[Numbered, None], *, recorded: bool) -> None:
        self.draft = draft
        self.recorded = recorded
        self.told: list[Numbered] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._work(events))

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The events with numbers above `after` as they come, until the last."""
        assert self.recorded
        place = after + 1
        while True:
            news, over = self._news, self.task.done()
            while place < len(self.told):
                yield self.told[place].encode()
                place += 1
            if over:
                return
            await news.wait()

    async def _work(self, events: AsyncGenerator[Numbered, None]) -> None:
        try:
            async for event in events:
                if self.recorded:
                    self.told.append(event)
                    self._wake()
        finally:
            asyncio.get_running_loop().call_soon(self._wake)  # by then the task is done

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Background:
    """All that run, by the id of the response."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def begin(self, draft: Draft, events: AsyncGenerator[Numbered, None], *, recorded: bool) -> Run:
        """Starts to work through the events."""
        id = draft.reply.id
        run = self._runs[id] = Run(draft, events, recorded=recorded)
        run.task.add_done_callback(lambda _: self._runs.pop(id, None))
        return run

    def find(self, id: str) -> Run | None:
        """The one under way, or None."""
        return self._runs.get(id)

    async def close(self) -> None:
        """Waits until all are over; call it once the engine is closed, which ends each of them with a fault."""
        if tasks := [run.task for run in self._runs.values()]:
            _, late = await asyncio.wait(tasks, timeout=_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
