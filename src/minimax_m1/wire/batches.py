"""OpenAI's contract of batches: what is asked, what a line of the input and of the output looks like, what is told.

In: `BatchRequest` and the bytes of one input line. Out: `Batch`, `BatchList`, and `Answered`, a line of an output file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Open
from minimax_m1.wire.files import DAY, Expiry

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
UNFINISHED: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")


class BatchRequest(Open):
    """A batch to be made of an uploaded file. Beyond OpenAI's "24h" a window may be any number of hours or days."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
    output_expires_after: Expiry | None = None

    @field_validator("completion_window")
    @classmethod
    def _window(cls, window: str) -> str:
        if not _WINDOW.fullmatch(window):
            message = f'completion_window must be hours or days such as "24h" or "7d", got {window!r}'
            raise RequestError(message, param="completion_window")
        return window

    @property
    def seconds(self) -> int:
        """How long the batch may take."""
        match = _WINDOW.fullmatch(self.completion_window)
        assert match is not None
        return int(match[1]) * (3600 if match[2] == "h" else DAY)


class BatchLine(Open):
    """One line of the input: a request that someone will know again by its `custom_id`."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"] = "POST"
    url: str
    body: dict[str, Any]


class BatchError(BaseModel):
    """What is wrong with the input; `line` counts from 1."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(BaseModel):
    """Everything that is wrong with the input, or the first of it."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How many lines there are, how many were answered, and how many of those with an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(BaseModel):
    """Of the input's tokens, how many were not computed again."""

    cached_tokens: int = 0


class OutputDetails(BaseModel):
    """Of the output's tokens, how many were thought."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens of all lines together."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int = 0


class Batch(BaseModel):
    """A batch. Times are seconds since 1970, null until they come."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    metadata: dict[str, str] | None = None


class BatchList(BaseModel):
    """One page of batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LineReply(BaseModel):
    """What the endpoint answered to a line."""

    status_code: int
    request_id: str
    body: Any


class LineError(BaseModel):
    """Why a line was never asked."""

    code: str
    message: str


class Answered(BaseModel):
    """One line of an output or error file: exactly one of `response` and `error` is not null."""

    id: str
    custom_id: str
    response: LineReply | None = None
    error: LineError | None = None
