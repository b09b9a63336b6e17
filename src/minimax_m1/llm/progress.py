"""A progress bar over many prompts: how many are done, and the tokens a second that go in and come out.

In: events as they come. Out: a line on a terminal's standard error; nothing for a few prompts or into a file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from minimax_m1.engine.request import TokenEvent
from minimax_m1.llm.job import Job

_FEW = 3  # prompts that need no bar
_PAUSE = 0.1  # seconds between two looks at the bar: an update costs as much as a token


class Bar:
    """Shows how far `groups`, the jobs of each prompt, have come; a context manager."""

    def __init__(self, groups: Sequence[Sequence[Job]], *, shown: bool, console: Console | None = None) -> None:
        console = Console(stderr=True) if console is None else console
        self._progress = Progress(
            TextColumn("prompts"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal and len(groups) > _FEW),
        )
        self._task = self._progress.add_task("prompts", total=len(groups), speed="")
        self._place = {job.request.id: place for place, group in enumerate(groups) for job in group}
        self._left = [len(group) for group in groups]  # replies that each prompt still waits for
        self._read: dict[str, int] = {}
        self._in = self._out = self._done = 0
        self._since = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._show(time.monotonic())
        self._progress.stop()

    def hear(self, job: Job, event: TokenEvent) -> None:
        """Counts one event."""
        if self._progress.disable:
            return
        read = max(0, event.prefilled_tokens - event.cached_tokens)
        self._in += read - self._read.get(job.request.id, 0)
        self._read[job.request.id] = read
        self._out += event.token_id is not None
        if event.finish is not None:
            place = self._place[job.request.id]
            self._left[place] -= 1
            self._done += self._left[place] == 0
        if (now := time.monotonic()) - self._shown > _PAUSE:
            self._show(now)

    def _show(self, now: float) -> None:
        self._shown = now
        seconds = max(now - self._since, 1e-9)
        speed = f"in {self._in / seconds:,.0f} tokens/s · out {self._out / seconds:,.0f} tokens/s"
        self._progress.update(self._task, completed=self._done, speed=speed)
