"""OpenAI's contract: chat completions and the list of models.

In: `ChatRequest`; unknown fields are ignored, but a known field that would change the answer and is
not served yet is refused, never dropped. Out: `ChatReply`, `ChatChunk`s, `ModelList`.
Beyond OpenAI's fields there are vLLM's sampling names and our `expert_threshold`; thoughts come
under both names in use, `reasoning_content` and `reasoning`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Count, Integer, Open, Stop
from minimax_m1.wire.messages import FunctionCall, Message, Tool


class StreamOptions(Open):
    """`include_usage`: one more chunk at the end, without choices, that carries the usage."""

    include_usage: bool = False


class ChatRequest(Open):
    """One chat completion. A sampling field left out takes the model's own default."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Integer | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Integer | None = None
    seed: Integer | None = None
    stop: Stop | None = None
    stop_token_ids: list[Integer] | None = None
    ignore_eos: bool | None = None
    expert_threshold: float | None = None
    n: Annotated[Integer, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Integer | None = None
    response_format: dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        plain_format = self.response_format is None or self.response_format.get("type") == "text"
        for name, fine in {
            "logprobs": not self.logprobs,
            "top_logprobs": not self.top_logprobs,
            "response_format": plain_format,
            "logit_bias": not self.logit_bias,
            "functions": not self.functions,
            "modalities": self.modalities in (None, ["text"]),
            "tool_choice": self.tool_choice in (None, "none", "auto"),
        }.items():
            if not fine:
                raise RequestError(f"{name} {getattr(self, name)!r} is not supported yet", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", param="stream_options")
        return self


def _unset(value: object) -> bool:
    return value is None


Text = Annotated[str | None, Field(exclude_if=_unset)]  # left out of the JSON where it is None


class CallOut(BaseModel):
    """A tool call in a reply; `index` only in a stream."""

    index: Annotated[int | None, Field(exclude_if=_unset)] = None
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageOut(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: Text = None
    reasoning: Text = None
    tool_calls: Annotated[list[CallOut] | None, Field(exclude_if=_unset)] = None


class Delta(BaseModel):
    """What a chunk adds to the assistant's turn; unset fields are left out."""

    role: Annotated[Literal["assistant"] | None, Field(exclude_if=_unset)] = None
    content: Text = None
    reasoning_content: Text = None
    reasoning: Text = None
    tool_calls: Annotated[list[CallOut] | None, Field(exclude_if=_unset)] = None


FinishedBy = Literal["stop", "length", "tool_calls"]


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: MessageOut
    logprobs: None = None
    finish_reason: FinishedBy


class ChunkChoice(BaseModel):
    """One of the `n` answers, in a stream."""

    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: FinishedBy | None = None


class PromptDetails(BaseModel):
    """Of the prompt's tokens, how many were not computed again."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """Of the completion's tokens, how many were thought."""

    reasoning_tokens: int


class ChatUsage(BaseModel):
    """Tokens used; over all `n` answers, the prompt counted once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatReply(BaseModel):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class ChatChunk(BaseModel):
    """A piece of a chat completion; only the last, and only with `include_usage`, has a usage."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[ChatUsage | None, Field(exclude_if=_unset)] = None


class ModelCard(BaseModel):
    """A model that this server answers with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "minimax-m1"
    max_model_len: int


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
