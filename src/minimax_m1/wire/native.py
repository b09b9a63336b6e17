"""The native contract: `POST /v1/minimax-m1/generate`.

In: `GenerateRequest`, whose unknown fields are refused by name. Out: `GenerateReply`, or, streaming,
events named `progress`, `reasoning`, `text`, `tool_call`, `tool_arguments`, at last `done` (a whole reply) or `error`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Closed, Count, Integer, unset
from minimax_m1.wire.messages import Function, Message, Tool
from minimax_m1.wire.openai import Formed, Logprobs, ToolUse
from minimax_m1.wire.sampling import Sampling


class GenerateRequest(Closed, Sampling, Formed, ToolUse):
    """One question. Exactly one of `input` (rendered as one user message) and `messages`.

    `max_output_tokens` must fit in the context window; what the input then leaves of the window caps
    it, and the reply's finish reason is "length". `context_window` is the most tokens, input and output
    together, that this request may use; absent, the server's limit. An input that does not fit is
    refused, never cut. What says how to choose tokens, `thinking_budget` too, defaults to the model's own settings.
    `context_id` names a context that was read before, behind which the question goes. `logprobs` asks for the
    log-probabilities of the answer's tokens and so many of the likeliest in their place.
    """

    model: str | None = None
    input: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    context_id: str | None = None
    max_output_tokens: Count = 1024
    context_window: Count | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    tools: list[Tool | Function] | None = None  # type: ignore[assignment]  # here a function may come unwrapped
    stream: bool = False
    routing: bool = True
    routed_experts: bool = False

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise RequestError('exactly one of "input" and "messages" must be given', param="input")
        return self

    def chosen(self) -> dict[str, Any]:
        """As `Sampling.chosen`, with the log-probabilities."""
        values = super().chosen()
        if self.logprobs is not None:
            values["logprobs"] = self.logprobs
        return values


class Usage(BaseModel):
    """Tokens used; `cached_tokens` are part of the input, `reasoning_tokens` of the output."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int


class NamedCall(BaseModel):
    """A tool call in a reply; `arguments` is JSON in a string."""

    id: str
    name: str
    arguments: str


class CallEvent(NamedCall):
    """A tool call in a stream: its place among the calls of the reply, beside its content.

    Where `arguments` is empty they follow in events of the name `tool_arguments`.
    """

    index: int


class ArgumentsEvent(BaseModel):
    """More of the arguments of the call of this index."""

    index: int
    text: str


class TextEvent(BaseModel):
    """New text of the answer (`text`) or of the thought before it (`reasoning`)."""

    text: str


class ProgressEvent(BaseModel):
    """How many tokens of the input have been read, of how many; `cached` did not have to be read again."""

    processed: int
    total: int
    cached: int = 0


class GenerateReply(BaseModel):
    """The answer. `routing` holds the report of the experts unless the request turned it off.

    The finish reason "repetition" says that the answer went round in a loop and was ended.
    """

    id: str
    object: Literal["generation"] = "generation"
    created: int
    model: str
    text: str
    reasoning: str
    tool_calls: list[NamedCall]
    finish_reason: Literal["stop", "length", "repetition", "tool_calls"]
    usage: Usage
    logprobs: Annotated[Logprobs | None, Field(exclude_if=unset)] = None
    routing: Annotated[dict[str, Any] | None, Field(exclude_if=unset)] = None
