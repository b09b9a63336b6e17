"""Anthropic's contract: messages, and counting their tokens.

In: `MessageRequest` and `CountRequest`; unknown fields and `cache_control`, which has nothing to do here since every
prefix is cached by itself, are ignored, but what would change the answer and cannot be served is refused by name.
Out: `MessageReply`, `CountReply`; `anthropic_events.py` has what is streamed. The blocks are the same both ways.
Beyond Anthropic's fields there are the sampling names of every dialect and `context_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic_core
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Integer, Open, Stop
from minimax_m1.wire.sampling import Sampling

UNSIGNED = "unsigned"  # the signature of every thought: clients want one, and nobody here checks it
_READ = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
_SAID_BY = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}


class TextBlock(Open):
    """Text, of anybody."""

    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(Open):
    """A thought of the model; the signature says nothing."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = UNSIGNED


class RedactedThinkingBlock(Open):
    """A thought that another model's server hid; it is not read."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Open):
    """A tool call of the model; `input` holds its arguments."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]

    @classmethod
    def of(cls, *, id: str, name: str, arguments: str) -> Self:
        """From arguments as they were written; where they were cut, it holds those values that are whole."""
        try:
            input = pydantic_core.from_json(arguments, allow_partial=True)
        except ValueError:  # it nests deeper than anybody here reads; a message does not fail for that
            input = {}
        return cls(id=id, name=name, input=input)


def _readable(value: Any) -> Any:
    """Refuses other kinds of blocks by their names, which says more than a list of what would be right."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and kind not in _READ:
        raise RequestError(
            f"a block of the type {kind!r} cannot be read here, only {', '.join(_READ)}", param="messages"
        )
    return value


ResultBlock = Annotated[TextBlock, BeforeValidator(_readable)]


class ToolResultBlock(Open):
    """What a tool answered to the call of this id."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None

    def text(self) -> str:
        """What the model is shown; it knows no other mark of an error."""
        text = joined(self.content or "")
        return f"Error: {text}" if self.is_error else text


Block = Annotated[
    Annotated[
        TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
    ],
    BeforeValidator(_readable),
]


class Turn(Open):
    """One message. A system message may stand anywhere and counts as part of `system`."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Block]

    @model_validator(mode="after")
    def _said_by_whom_it_can_be(self) -> Self:
        for block in self.blocks():
            if block.type not in _SAID_BY[self.role]:
                raise RequestError(f"a block of the type {block.type!r} cannot be the {self.role}'s", param="messages")
        return self

    def blocks(self) -> Sequence[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock]:
        """The content as blocks; a string is one of text."""
        return [TextBlock(text=self.content)] if isinstance(self.content, str) else self.content


def joined(content: str | Sequence[TextBlock]) -> str:
    """The text of a string or of blocks, which begin on lines of their own."""
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _own(value: Any) -> Any:
    """Refuses tools that only Anthropic's own servers have."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in (None, "custom"):
        raise RequestError(f"a tool of the type {kind!r} is not available here, only custom ones", param="tools")
    return value


class CustomTool(Open):
    """A tool that the client runs; `strict` calls must be able to follow the schema."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None

    def plain(self) -> dict[str, Any]:
        """The tool as a mapping in OpenAI's wrapping."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.input_schema,
            "strict": self.strict,
        }
        return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


class ToolChoice(Open):
    """Whether tools may ("auto"), must ("any", or "tool" with a `name`) or may not ("none") be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise RequestError("tool_choice of the type 'tool' needs a name", param="tool_choice")
        return self

    def plain(self) -> str:
        """ "auto", "required", "none" or the tool's name."""
        if self.type == "tool" and self.name is not None:
            return self.name
        return {"any": "required"}.get(self.type, self.type)


class Thinking(Open):
    """How long the model may think.

    "enabled" takes `budget_tokens`, which may be fewer than Anthropic's 1024; "disabled" is a budget of 0; "adaptive"
    and "between_tools" leave it to the model, as no `thinking` at all does. `display` "omitted" hides the thought.
    """

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Integer, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @model_validator(mode="after")
    def _budgeted(self) -> Self:
        if self.type == "enabled" and self.budget_tokens is None:
            raise RequestError("thinking of the type 'enabled' needs budget_tokens", param="thinking.budget_tokens")
        return self

    def budget(self) -> int | None:
        """Most tokens of the thought, or None for the model's own settings."""
        return {"enabled": self.budget_tokens, "disabled": 0}.get(self.type)


class JsonFormat(Open):
    """A schema that the answer follows."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Open):
    """The form of the answer, and by `effort` how long the thought before it may be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class CountRequest(Open):
    """What is put before the model; `POST /v1/messages/count_tokens` counts it."""

    model: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[ResultBlock] | None = None
    tools: list[Annotated[CustomTool, BeforeValidator(_own)]] | None = None
    tool_choice: ToolChoice | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> Self:
        if self.messages[-1].role == "assistant":
            raise RequestError(
                "messages must end with a user's: the model cannot go on in an assistant message", param="messages"
            )
        return self

    def choice(self) -> str:
        """As `ToolChoice.plain`."""
        return self.tool_choice.plain() if self.tool_choice else "auto"

    def plain_tools(self) -> list[dict[str, Any]]:
        """The tools as mappings in OpenAI's wrapping."""
        return [tool.plain() for tool in self.tools or ()]

    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages as the chat template takes them: one a tool result, one for user messages in a row."""
        inside = (joined(_texts(turn)) for turn in self.messages if turn.role == "system")
        system = "\n".join(filter(None, (joined(self.system or ""), *inside)))
        turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for turn in self.messages:
            for said in _plain(turn) if turn.role != "system" else ():
                if turns and turns[-1]["role"] == said["role"] == "user":
                    turns[-1]["content"] += "\n" + said["content"]
                else:
                    turns.append(said)
        return turns


def _texts(turn: Turn) -> list[TextBlock]:
    return [block for block in turn.blocks() if isinstance(block, TextBlock)]


def _plain(turn: Turn) -> list[dict[str, Any]]:
    blocks, texts = turn.blocks(), _texts(turn)
    said: dict[str, Any] = {"role": turn.role, "content": joined(texts)}
    if turn.role == "assistant":
        if thought := "\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)):
            said["reasoning_content"] = thought
        calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
        if calls:
            said["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}
                for call in calls
            ]
        return [said]
    results = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": block.text()}
        for block in blocks
        if isinstance(block, ToolResultBlock)
    ]
    return [*results, said] if texts or not results else results


class MessageRequest(CountRequest, Sampling):
    """One message. A sampling field left out takes the model's own default.

    `max_tokens` 0 only reads the prompt, so that the next request finds it cached. A thought comes as a block of its
    own, whether `thinking` was asked for or not. `thinking_budget` says more than `thinking`, and that more than
    `output_config.effort`. `context_id` names a context that was read before, behind which the messages go.
    """

    max_tokens: Annotated[Integer, Field(ge=0)]
    stop_sequences: Stop | None = None
    stream: bool | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    context_id: str | None = None
    mcp_servers: list[Any] | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.mcp_servers:
            raise RequestError("mcp_servers are not supported: call their tools from the client", param="mcp_servers")
        return self

    @property
    def hides_thought(self) -> bool:
        """True where the thought is wanted without its text."""
        return self.thinking is not None and self.thinking.display == "omitted"

    def schema_asked(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow, if any."""
        form = (self.output_config.format if self.output_config else None) or self.output_format
        return form.schema_ if form else None

    def chosen(self) -> dict[str, Any]:
        """As `Sampling.chosen`, with what `stop_sequences` and `thinking` say."""
        values = super().chosen()
        if self.stop_sequences is not None:
            values["stop"] = self.stop_sequences
        budget = self.thinking.budget() if self.thinking else None
        return values if budget is None else {"thinking_budget": budget, **values}


class ThinkingDetails(BaseModel):
    """Of the output's tokens, how many were thought."""

    thinking_tokens: int


class MessageUsage(BaseModel):
    """Tokens used. The input is `input_tokens` and those read from the cache together.

    Nothing counts as created: all that is read goes to the cache, for as long as there is room for it.
    """

    input_tokens: int
    cache_creation_input_tokens: Literal[0] = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails
    service_tier: Literal["standard"] = "standard"


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class MessageReply(BaseModel):
    """A whole message, or in a stream its beginning, without content and a stop reason."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class CountReply(BaseModel):
    """How many tokens a request would put before the model."""

    input_tokens: int
