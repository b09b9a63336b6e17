"""The events of a message that is streamed in Anthropic's dialect, and its way to tell a failure.

Out: events whose names are their types, in the order message_start, then for each block content_block_start,
content_block_delta, content_block_stop, then message_delta, message_stop; ping anywhere, error instead of the rest.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from minimax_m1.wire.anthropic import (
    UNSIGNED,
    MessageReply,
    MessageUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from minimax_m1.wire.errors import Fault

_KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class MessageStart(BaseModel):
    """The first event."""

    type: Literal["message_start"] = "message_start"
    message: MessageReply


class Ping(BaseModel):
    """Nothing new, but still there; one comes whenever more of a long input has been read."""

    type: Literal["ping"] = "ping"


class BlockStart(BaseModel):
    """A block begins, empty."""

    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: TextBlock | ThinkingBlock | ToolUseBlock


class TextDelta(BaseModel):
    """More text."""

    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(BaseModel):
    """More of the thought."""

    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(BaseModel):
    """The end of a thought."""

    type: Literal["signature_delta"] = "signature_delta"
    signature: str = UNSIGNED


class InputDelta(BaseModel):
    """More of the JSON text of a call's input."""

    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class BlockDelta(BaseModel):
    """What is new in a block."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(BaseModel):
    """A block is whole."""

    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Ended(BaseModel):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    """The end of the message and all that it used."""

    type: Literal["message_delta"] = "message_delta"
    delta: Ended
    usage: MessageUsage


class MessageStop(BaseModel):
    """The last event."""

    type: Literal["message_stop"] = "message_stop"


class FailureDetail(BaseModel):
    """What went wrong, and whose fault it is."""

    type: str
    message: str


class Failure(BaseModel):
    """The body of an error, and the `error` event of a stream."""

    type: Literal["error"] = "error"
    error: FailureDetail
    request_id: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None

    @classmethod
    def of(cls, fault: Fault, request_id: str | None = None) -> Failure:
        """The same fault in Anthropic's words; `request_id` is the one by which the client knows the request."""
        kind = _KINDS.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
        return cls(error=FailureDetail(type=kind, message=str(fault)), request_id=request_id or None)


MessageEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Failure
