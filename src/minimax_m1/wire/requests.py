"""What is under way: `GET /v1/requests`, and what cancelling one answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class RequestCard(BaseModel):
    """An open request. `id` is its reply's; `request_id` the one in its X-Request-Id header.

    `kind` is the dialect. `processed` counts the prompt's tokens that have been read, `cached_tokens` those of them
    that did not have to be; `output_tokens` those of all its answers.
    """

    id: str
    object: Literal["request"] = "request"
    request_id: str
    kind: str
    state: Literal["queued", "reading", "writing"]
    created: int
    seconds: float
    answers: int
    prompt_tokens: int
    processed: int
    cached_tokens: int
    output_tokens: int
    context_id: str | None


class RequestList(BaseModel):
    """All of them, oldest first."""

    object: Literal["list"] = "list"
    data: list[RequestCard]


class Cancelled(BaseModel):
    """How many open requests had the id; each of them has ended."""

    id: str
    object: Literal["request.cancelled"] = "request.cancelled"
    cancelled: int
