"""The log: one line of JSON for each HTTP request at its end, and the id by which client and log name it.

In: an ASGI application. Out: the same, with X-Request-Id on every response, the client's own where it sent a good one.
A line says how long it took and how many tokens it was, never a word of what was asked or answered. `Noted` is the
registry's observer that tells which answers a request got.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minimax_m1.serve.registry import Entry, Observer, request_id

_log = logging.getLogger("minimax_m1.access")
_GOOD = re.compile(rb"[!-~]{1,128}")
_GONE = 499  # nginx's status for a client that left before the answer began

# The answers that the HTTP request at hand asked the engine for.
_entries: ContextVar[list[Entry] | None] = ContextVar("entries", default=None)


class Access:
    """Middleware, the outermost one; `responded` is told each status."""

    def __init__(self, app: ASGIApp, *, responded: Callable[[int], None]) -> None:
        self._app = app
        self._responded = responded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope)
        # Each request has a task of its own, and with it a context: nothing has to be set back.
        request_id.set(visit.id)
        _entries.set(visit.entries)
        try:
            await self._app(scope, receive, visit.watch(send))
        except Exception:
            visit.status = visit.status or 500
            _log.exception("a request failed")
            raise
        finally:
            self._responded(visit.status or _GONE)
            _log.info("%s %s", scope["method"], scope["path"], extra={"fields": visit.fields()})


class Noted:
    """An observer that notes which answers belong to the HTTP request at hand, and passes everything on to another."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.token = observer.token  # straight there: it is called for every token
        self.ended = observer.ended
        self.routed = observer.routed

    def began(self, entry: Entry) -> None:
        """The engine took a request."""
        entries = _entries.get()
        if entries is not None:
            entries.append(entry)
        self._observer.began(entry)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request_id, the record's `fields`, and its error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if id := request_id.get():
            told["request_id"] = id
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Has every logger write lines of JSON to stderr from `level` ("debug", "info", "warning", "error") up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


class _Visit:
    """One HTTP request while it lasts."""

    def __init__(self, scope: Scope) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.id = given.decode("ascii") if _GOOD.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self.entries: list[Entry] = []
        self.status = 0
        self._scope = scope
        self._began = time.monotonic()
        self._bytes = 0
        self._whole = False

    def watch(self, send: Send) -> Send:
        """A `send` that puts the id on the response and takes note of what goes out."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = self.id
            elif message["type"] == "http.response.body":
                self._bytes += len(message.get("body", b""))
                self._whole = not message.get("more_body", False)
            await send(message)

        return watched

    def fields(self) -> dict[str, Any]:
        """What the log says of it; `gone` where the client left before the end."""
        client = self._scope.get("client")
        told: dict[str, Any] = {
            "request_id": self.id,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self.status or _GONE,
            "seconds": round(time.monotonic() - self._began, 4),
            "client": client[0] if client else None,
            "bytes": self._bytes,
        }
        if not self._whole:
            told["gone"] = True
        if self.entries:
            told["answers"] = [_answer(entry) for entry in self.entries]
        return told


def _answer(entry: Entry) -> dict[str, Any]:
    first = entry.first_token
    return {
        "id": entry.id,
        "kind": entry.kind,
        "prompt_tokens": entry.prompt_tokens,
        "cached_tokens": entry.cached_tokens,
        "output_tokens": entry.output_tokens,
        "reasoning_tokens": entry.reasoning_tokens,
        "finish": entry.finish,
        "ttft": None if first is None else round(first - entry.began, 4),
    }
