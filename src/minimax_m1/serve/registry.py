"""What is under way: one `Entry` a request, from the moment the engine took it until its last item.

In: the ids and jobs of requests, then what becomes of them. Out: the list for `GET /v1/requests`, cancelling by id, and
calls of an `Observer`, which counts. All of it happens on the server's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from minimax_m1.engine.routing import RoutingTrace

# The id under which the client knows this request, from its X-Request-Id header or made by the server.
request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """One request. Times are seconds of `time.monotonic`, but `created`, which is seconds since 1970.

    `processed` and `output_tokens` are those of all its answers together, `prompt_tokens` those of one. `context` is
    the id of the context on disk that it continues.
    """

    id: str
    request_id: str
    kind: str
    answers: int
    prompt_tokens: int
    stop: Callable[[], None]
    context: str | None = None
    created: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    state: Literal["queued", "reading", "writing"] = "queued"
    processed: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    first_token: float | None = None
    last_token: float | None = None
    finish: str = "abort"  # until an answer has ended


class Observer(Protocol):
    """Hears of every request; must be quick."""

    def began(self, entry: Entry) -> None:
        """The engine took it."""
        ...

    def token(self, entry: Entry, since: float | None) -> None:
        """One more token, so many seconds `since` the one before; None: it is the first."""
        ...

    def ended(self, entry: Entry) -> None:
        """It is over: `entry.finish` says how."""
        ...

    def routed(self, trace: RoutingTrace) -> None:
        """Where the tokens of one answer went."""
        ...


class Registry:
    """All open requests, by id."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._open: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Open requests, oldest first."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def cancel(self, id: str) -> int:
        """Ends the requests of this id, the reply's or the client's own; how many there were."""
        found = [entry for entry in self if id in (entry.id, entry.request_id)]
        for entry in found:
            entry.stop()
        return len(found)

    @contextmanager
    def opened(
        self,
        id: str,
        kind: str,
        *,
        answers: int,
        prompt_tokens: int,
        stop: Callable[[], None],
        context: str | None = None,
    ) -> Iterator[Entry]:
        """Lists a request for as long as the block runs; `stop` ends it from outside."""
        entry = Entry(
            id=id,
            request_id=request_id.get(),
            kind=kind,
            answers=answers,
            prompt_tokens=prompt_tokens,
            stop=stop,
            context=context,
        )
        self._open[id] = entry
        try:
            if self._observer is not None:
                self._observer.began(entry)
            yield entry
        finally:
            del self._open[id]
            if self._observer is not None:
                self._observer.ended(entry)

    def read(self, entry: Entry, processed: int, cached: int) -> None:
        """So many tokens of the prompt are read, `cached` of them not again."""
        entry.state = "reading" if entry.state == "queued" else entry.state
        entry.processed, entry.cached_tokens = max(entry.processed, processed), max(entry.cached_tokens, cached)

    def wrote(self, entry: Entry) -> None:
        """One more token came."""
        now = time.monotonic()
        entry.state, entry.output_tokens = "writing", entry.output_tokens + 1
        if self._observer is not None:
            self._observer.token(entry, None if entry.last_token is None else now - entry.last_token)
        entry.first_token = now if entry.first_token is None else entry.first_token
        entry.last_token = now

    def finished(self, entry: Entry, reason: str, cached: int, reasoning: int, trace: RoutingTrace | None) -> None:
        """One of its answers has ended."""
        entry.finish, entry.cached_tokens = reason, max(entry.cached_tokens, cached)
        entry.reasoning_tokens += reasoning
        if self._observer is not None and trace is not None:
            self._observer.routed(trace)
