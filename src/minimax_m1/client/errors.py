"""What a client raises for what a server, or the way to it, did.

MiniMaxError
├─ ConnectionFailed       no answer: nobody there, or a cut in the middle
│  └─ TimedOut            silence for longer than the client waits
├─ UnreadableReply        an answer, but not one of this API
└─ Fault                  wire/errors.py: status, code, param
   └─ APIError            the server refused or failed; knows its request_id and retry_after too
      ├─ BadRequest       400, 413, 422
      ├─ PermissionDenied 401, 403
      ├─ NotFound         404
      ├─ Conflict         409
      ├─ RateLimited      429
      └─ ServerFailed     500 and above
         └─ Unavailable   503, 529: loading, full or shutting down

A request that is wrong by itself never leaves: it raises `minimax_m1.errors.RequestError`, as `LLM` does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from pydantic import ValidationError

from minimax_m1.errors import MiniMaxError
from minimax_m1.wire.errors import ErrorReply, Fault


class ConnectionFailed(MiniMaxError):
    """No whole answer came: nobody listens there, or the connection was cut."""


class TimedOut(ConnectionFailed):
    """The server was silent for longer than the client waits. Not tried again: it may still be at work."""


class UnreadableReply(MiniMaxError):
    """What came is no answer of this API; another server may listen there, or one of another version."""


class APIError(Fault):
    """The server's refusal; the message is its own.

    `request_id` is the name of the request in the server's log, `retry_after` the seconds that it asked to wait.
    """

    request_id: str | None = None
    retry_after: float | None = None


class BadRequest(APIError):
    """The request cannot be served as it stands; `param` names the field at fault."""


class PermissionDenied(APIError):
    """The key is missing, wrong, or not allowed to do this."""


class NotFound(APIError):
    """There is no such model, context, request or route."""


class Conflict(APIError):
    """What is asked for cannot be done now: it is in use, incomplete, or was cancelled."""


class RateLimited(APIError):
    """Too many requests or tokens for this key."""


class ServerFailed(APIError):
    """The server failed; its log says why."""


class Unavailable(ServerFailed):
    """The server is loading, full or shutting down."""


_KINDS = {
    400: BadRequest, 401: PermissionDenied, 403: PermissionDenied, 404: NotFound, 409: Conflict, 413: BadRequest,
    422: BadRequest, 429: RateLimited, 503: Unavailable, 529: Unavailable,
}  # fmt: skip

# Codes of what may go wrong once a stream has begun, where their type alone does not say it.
_STATUSES = {
    "context_not_found": 404, "request_cancelled": 409, "context_busy": 409, "context_conflict": 409,
    "context_not_ready": 409, "body_too_large": 413, "server_busy": 503, "model_closed": 503,
}  # fmt: skip


def refusal(status: int, headers: Mapping[str, str], data: bytes) -> APIError:
    """The error that a reply tells; `headers` has its names in lower case, or ignores case."""
    kind = _KINDS.get(status, ServerFailed if status >= 500 else APIError)
    error = kind.read(status, data if data.strip() else f"the server answered with status {status}".encode())
    error.request_id = headers.get("x-request-id")
    error.retry_after = _seconds(headers.get("retry-after"))
    return error


def told_in_stream(data: str) -> APIError:
    """The error of a stream, whose status was sent before: the status that it would have had, by its code and type."""
    try:
        body = ErrorReply.model_validate_json(data).error
    except ValidationError:
        raise UnreadableReply(f"a stream told an error in a form of its own: {data[:200]!r}") from None
    status = _STATUSES.get(body.code or "", 500 if body.type == "server_error" else 400)
    return refusal(status, {}, data.encode())


def _seconds(told: str | None) -> float | None:
    """A Retry-After, seconds or a date, as seconds from now; None where it is neither."""
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
