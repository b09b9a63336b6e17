"""How a request ends: a model of the wire as JSON, or a refusal in the shape of its path's protocol."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.responses import Response

from minimax_m1.serve.registry import request_id
from minimax_m1.wire.anthropic_events import Failure
from minimax_m1.wire.errors import Fault

_PASSING = (429, 503, 529)  # statuses after which waiting helps


def json_reply(reply: BaseModel, status: int = 200) -> Response:
    """The model, its fields under the wire's names."""
    return Response(reply.model_dump_json(by_alias=True), status, media_type="application/json")


def speaks_anthropic(path: str) -> bool:
    """Whether the errors of a path have Anthropic's shape; all others have OpenAI's."""
    return path.startswith("/v1/messages")


def anthropic_headers() -> dict[str, str]:
    """The name under which Anthropic's clients look for the request's id."""
    return {"request-id": request_id.get()} if request_id.get() else {}


def refusal(fault: Fault, path: str) -> Response:
    """A fault with its status; Retry-After where it passes by itself."""
    if speaks_anthropic(path):
        response = json_reply(Failure.of(fault, request_id.get()), fault.status)
        response.headers.update(anthropic_headers())
    else:
        response = json_reply(fault.reply, fault.status)
    if fault.status in _PASSING:
        response.headers["retry-after"] = "1"
    return response
