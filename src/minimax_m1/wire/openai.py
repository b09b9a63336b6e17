"""OpenAI's contract: chat completions and the list of models.

In: `ChatRequest`; unknown fields are ignored, but a known field that would change the answer and cannot be served is
refused, never dropped. Out: `ChatReply`, `ChatChunk`s, `ModelList`.
Beyond OpenAI's fields there are vLLM's sampling names and our own; thoughts come under both names in use,
`reasoning_content` and `reasoning`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Closed, Count, Integer, Open, unset
from minimax_m1.wire.messages import FunctionCall, Message, Tool
from minimax_m1.wire.sampling import Sampling


class StreamOptions(Open):
    """`include_usage`: one more chunk at the end, without choices, that carries the usage."""

    include_usage: bool = False


class JsonSchema(Open):
    """A schema that the answer follows; it is kept to whether `strict` or not."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Open):
    """What the answer must be: any text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise RequestError(
                "response_format of the type json_schema needs json_schema.schema", param="response_format.json_schema"
            )
        return self

    def form(self) -> dict[str, Any] | None:
        """The one field of `StructuredOutputsParams` that it means; None for text."""
        if self.type == "text":
            return None
        if self.json_schema is None or self.type == "json_object":
            return {"json_object": True}
        return {"json": self.json_schema.schema_}


class StructuredOutputs(Closed):
    """vLLM's way to say the form; exactly one of the fields."""

    json_: Annotated[str | dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool = False

    def form(self) -> dict[str, Any]:
        """As fields of `StructuredOutputsParams`, which says whether they are too many."""
        return {
            "json": self.json_,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "json_object": self.json_object,
        }


class Formed(BaseModel):
    """Both ways to say the form of an answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    def form(self) -> dict[str, Any] | None:
        """Fields of `StructuredOutputsParams`, or None where any text will do.

        Raises:
            RequestError: both ways are used.
        """
        asked = self.response_format.form() if self.response_format else None
        if self.structured_outputs is None:
            return asked
        if asked is not None:
            raise RequestError(
                "response_format and structured_outputs cannot both say the form", param="structured_outputs"
            )
        return self.structured_outputs.form()


class NamedFunction(Open):
    """A function by its name."""

    name: str


class NamedTool(Open):
    """`tool_choice` for one function."""

    type: Literal["function"]
    function: NamedFunction


class ToolUse(BaseModel):
    """The tools of a request, and whether they may, must or may not be called."""

    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    def choice(self) -> str:
        """ "auto", "none", "required" or a tool's name."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.tool_choice or "auto"


class ChatRequest(Open, Sampling, Formed, ToolUse):
    """One chat completion. A sampling field left out takes the model's own default.

    `reasoning_effort` is a share of the longest thought that the model may have: none, minimal, low, medium, high,
    xhigh, max; `thinking_budget` (vLLM: `thinking_token_budget`) says it in tokens. `context_id` names a context that
    was read before, behind which the messages go.
    """

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[Integer, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: Integer | None = None
    include_reasoning: bool = True
    return_token_ids: bool = False
    return_progress: bool = False
    return_routed_experts: bool = False
    context_id: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        for name, fine in {
            "functions": not self.functions,
            "modalities": self.modalities in (None, ["text"]),
            "audio": self.audio is None,
            "web_search_options": self.web_search_options is None,
        }.items():
            if not fine:
                raise RequestError(f"{name} {getattr(self, name)!r} is not supported", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", param="stream_options")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs is only allowed when logprobs is true", param="top_logprobs")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise RequestError("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
        return self

    def chosen(self) -> dict[str, Any]:
        """As `Sampling.chosen`, with the log-probabilities and vLLM's name of the budget."""
        values = super().chosen()
        if self.thinking_token_budget is not None:
            values.setdefault("thinking_budget", self.thinking_token_budget)
        if self.logprobs:
            values["logprobs"] = self.top_logprobs or 0
        if self.prompt_logprobs is not None:
            values["prompt_logprobs"] = self.prompt_logprobs
        return values


Text = Annotated[str | None, Field(exclude_if=unset)]  # left out of the JSON where it is None


class CallOut(BaseModel):
    """A tool call in a reply; `index` only in a stream."""

    index: Annotated[int | None, Field(exclude_if=unset)] = None
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class MoreArguments(BaseModel):
    """A piece of a call's arguments."""

    arguments: str


class CallPart(BaseModel):
    """More of the call of this index, in a stream."""

    index: int
    function: MoreArguments


class MessageOut(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: Text = None
    reasoning: Text = None
    tool_calls: Annotated[list[CallOut] | None, Field(exclude_if=unset)] = None


class Delta(BaseModel):
    """What a chunk adds to the assistant's turn; unset fields are left out."""

    role: Annotated[Literal["assistant"] | None, Field(exclude_if=unset)] = None
    content: Text = None
    reasoning_content: Text = None
    reasoning: Text = None
    tool_calls: Annotated[list[CallOut | CallPart] | None, Field(exclude_if=unset)] = None


FinishedBy = Literal["stop", "length", "tool_calls"]


class LikelyToken(BaseModel):
    """A token that might have come; `bytes` are its own, where its text is half a character."""

    token: str
    bytes: list[int] | None
    logprob: float


class ChosenToken(LikelyToken):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[LikelyToken]


class Logprobs(BaseModel):
    """Log-probabilities of the tokens of the reply, its thought included, under the model's unchanged logits."""

    content: list[ChosenToken]
    refusal: None = None


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: MessageOut
    logprobs: Logprobs | None = None
    finish_reason: FinishedBy
    token_ids: Annotated[list[int] | None, Field(exclude_if=unset)] = None
    routed_experts: Text = None


class ChunkChoice(BaseModel):
    """One of the `n` answers, in a stream."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
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


class PromptLogprob(BaseModel):
    """A token of the prompt, had it come there (vLLM's shape)."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]  # None for the first token


class PromptProgress(BaseModel):
    """How far the prompt has been read (llama.cpp's shape)."""

    total: int
    cache: int
    processed: int
    time_ms: int


class ChatReply(BaseModel):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    prompt_logprobs: Annotated[PromptLogprobs | None, Field(exclude_if=unset)] = None
    prompt_token_ids: Annotated[list[int] | None, Field(exclude_if=unset)] = None


class ChatChunk(BaseModel):
    """A piece of a chat completion; only the last, and only with `include_usage`, has a usage."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[ChatUsage | None, Field(exclude_if=unset)] = None
    prompt_progress: Annotated[PromptProgress | None, Field(exclude_if=unset)] = None


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


class Health(BaseModel):
    """The model can answer."""

    status: Literal["ready"] = "ready"
    model: str
