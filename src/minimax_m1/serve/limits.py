"""`Limits`: no more than so many HTTP requests are open at once; another one is told to come back.

In: an ASGI application. Out: the same, which answers 429 with Retry-After where too much is open. What an operator
looks at is always answered, or nobody could see what is wrong.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from minimax_m1.serve.replies import refusal
from minimax_m1.wire.errors import Fault

_FREE = ("/health", "/metrics", "/docs", "/openapi.json")


class Limits:
    """Middleware; at most `max_requests` are open. A stream is open until its last byte."""

    def __init__(self, app: ASGIApp, *, max_requests: int = 1024) -> None:
        self._app = app
        self._max_requests = max_requests
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_free(scope["path"]):
            await self._app(scope, receive, send)
        elif self._open >= self._max_requests:
            await self._refusal(scope["path"])(scope, receive, send)
        else:
            self._open += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1

    def _refusal(self, path: str) -> Response:
        said = f"{self._open} requests are open, the most this server takes; try again later"
        return refusal(Fault(429, said, code="too_many_requests"), path)


def _is_free(path: str) -> bool:
    return path in _FREE or path.startswith("/docs/")
