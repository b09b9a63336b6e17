"""OpenAI's Responses contract: what is asked, the response object, and what lists and counts give.

In: `ResponseRequest`, `CountRequest`; unknown fields are ignored, but a known field that would change the answer and
is not served is refused, never dropped. Out: `ResponseReply` with every field of OpenAI's, `InputItemList`,
`InputTokens`, `DeletedResponse`. `StoredResponse` is what the server keeps of one.
Beyond OpenAI's fields there are the sampling names of `Sampling`, and `context_id`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Count, Integer, Open
from minimax_m1.wire.responses_items import GivenItem, Item, OutputItem
from minimax_m1.wire.sampling import Sampling

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Short = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Short], Field(max_length=16)]
Unserved = Annotated[Any, Field(json_schema_extra={"type": "null"})]  # known, and refused by name where it is given
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    # These are about tools and inputs that this server does not have, so there is never any of it to include.
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class FunctionTool(Open):
    """A function that the model may call; `parameters` is a JSON schema, which a `strict` call must follow."""

    type: Literal["function"] = "function"
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def _a_function(tool: Any) -> Any:
    if isinstance(tool, dict) and (kind := tool.get("type")) != "function":
        raise RequestError(f"tools of the type {kind!r} are not served, only 'function'", param="tools")
    return tool


class ForcedTool(Open):
    """`tool_choice` for one function."""

    type: Literal["function"]
    name: str


class AllowedTool(Open):
    """A function among those allowed."""

    type: Literal["function"]
    name: str


class AllowedTools(Open):
    """`tool_choice` among some of the functions; the others are as if they were not there."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class TextFormat(Open):
    """What the answer must be: any text, any JSON object, or JSON that follows a schema, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    description: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema", exclude_if=lambda value: value is None)] = None
    strict: Annotated[bool | None, Field(exclude_if=lambda value: value is None)] = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> Self:
        if self.type == "json_schema" and self.schema_ is None:
            raise RequestError("text.format of the type json_schema needs a schema", param="text.format.schema")
        return self


class TextConfig(Open):
    """The form of the answer. `verbosity` is taken as a hint, and this model does not follow it."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Open):
    """How much to think, as a share of the longest thought allowed. A `summary` is never made: thoughts come whole."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(Open):
    """Padding against listeners is not made, asked for or not."""

    include_obfuscation: bool | None = None


class ResponseInput(Open):
    """What goes before the answer: the fields that creating and counting share."""

    model: str | None = None
    input: str | list[GivenItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    context_id: str | None = None
    tools: list[Annotated[FunctionTool, BeforeValidator(_a_function)]] | None = None
    tool_choice: Literal["none", "auto", "required"] | ForcedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: Unserved = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.conversation is not None:
            raise RequestError("conversation is not served; previous_response_id is", param="conversation")
        if self.input is None and self.previous_response_id is None:
            raise RequestError("input is required", param="input")
        if self.input is not None and not self.input:
            raise RequestError("input is empty", param="input")
        return self

    def choice(self) -> str:
        """ "auto", "none", "required" or a tool's name."""
        if isinstance(self.tool_choice, AllowedTools):
            return self.tool_choice.mode
        return self.tool_choice.name if isinstance(self.tool_choice, ForcedTool) else self.tool_choice or "auto"

    def wrapped_tools(self) -> list[dict[str, Any]]:
        """The tools that may be called, in the wrapping of chat completions.

        Raises:
            RequestError: `tool_choice` allows a tool that is not there.
        """
        tools = {tool.name: tool for tool in self.tools or ()}
        if isinstance(self.tool_choice, AllowedTools):
            missing = [tool.name for tool in self.tool_choice.tools if tool.name not in tools]
            if missing:
                raise RequestError(
                    f"tool_choice allows {missing[0]!r}, which is none of the tools", param="tool_choice"
                )
            tools = {tool.name: tools[tool.name] for tool in self.tool_choice.tools}
        bare = (tool.model_dump(exclude={"type"}, exclude_none=True) for tool in tools.values())
        return [{"type": "function", "function": tool} for tool in bare]

    def form(self) -> dict[str, Any] | None:
        """The one field of `StructuredOutputsParams` that `text.format` means; None for text."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        return {"json_object": True} if form.type == "json_object" else {"json": form.schema_}


class CountRequest(ResponseInput):
    """How many tokens would this input have?"""


class ResponseRequest(ResponseInput, Sampling):
    """One response. A sampling field left out takes the model's own default.

    `truncation` "auto" is taken as "disabled", which the reply says: an input that does not fit is refused, never cut.
    `store` false keeps nothing of it; `background` answers at once and works on. `thinking_budget` in tokens goes
    before `reasoning.effort`. `context_id` names a context that was read before, behind which the input goes.
    """

    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    metadata: Metadata | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    prompt: Unserved = None
    moderation: Unserved = None
    context_management: Unserved = None

    @model_validator(mode="after")
    def _made_sense(self) -> Self:
        for name in ("prompt", "moderation", "context_management"):
            if getattr(self, name) is not None:
                raise RequestError(f"{name} is not served", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", param="stream_options")
        if self.background and self.store is False:
            raise RequestError("background needs store: what comes of it must be kept somewhere", param="background")
        return self

    def chosen(self) -> dict[str, Any]:
        """As `Sampling.chosen`, with the log-probabilities where they are asked for."""
        values = super().chosen()
        if self.top_logprobs is not None or "message.output_text.logprobs" in (self.include or ()):
            values["logprobs"] = self.top_logprobs or 0
        return values


class CachedTokens(BaseModel):
    """Of the input's tokens, how many were not read again; keeping them costs nobody anything."""

    cached_tokens: int
    cache_write_tokens: int = 0


class ThoughtTokens(BaseModel):
    """Of the output's tokens, how many were thought."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens used."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ThoughtTokens
    total_tokens: int


class ResponseFailure(BaseModel):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class Incomplete(BaseModel):
    """Why a response is not complete; an answer that went round in a loop was cut as well."""

    reason: Literal["max_output_tokens"]


class ResponseReply(BaseModel):
    """A response, as far as it is."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    completed_at: int | None = None
    error: ResponseFailure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningConfig
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | ForcedTool | AllowedTools
    tools: list[FunctionTool]
    top_logprobs: int
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]
    context_id: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None


class StoredResponse(BaseModel):
    """What the server keeps of a response: with it, and with those before it, a conversation goes on."""

    response: ResponseReply
    input: list[Item]


class PageRequest(BaseModel):
    """Which of the input items to list; a query's values are strings."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class RetrieveRequest(BaseModel):
    """Whether to stream the events of a response, and after which."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None


class InputItemList(BaseModel):
    """A page of the input items of a response."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(BaseModel):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class DeletedResponse(BaseModel):
    """The response is no longer kept."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
