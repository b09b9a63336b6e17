"""What a conversation looks like on the wire; both dialects, native and OpenAI, speak it.

In: messages and tool definitions as clients write them. Out: the plain mappings that the chat
template takes (`plain`), with `developer` said as `system` and `reasoning` as `reasoning_content`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from minimax_m1.wire.body import Open


class TextPart(Open):
    """One part of a message; text is the only kind this family reads here."""

    type: Literal["text"]
    text: str
    name: str | None = None  # in tool results of the published format: which tool answered


class FunctionCall(Open):
    """A function's name and its arguments, a JSON object written as a string."""

    name: str
    arguments: str


class ToolCall(Open):
    """One call that the assistant asked for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Open):
    """One turn. Which fields a role needs is the chat template's business."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Function(Open):
    """A function that the model may call; `parameters` is a JSON schema.

    With `strict` one that cannot be followed to the letter is refused; without it calls are then free.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Open):
    """OpenAI's wrapping of a function definition."""

    type: Literal["function"]
    function: Function


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as mappings, unset fields left out."""
    turns = []
    for message in messages:
        turn = message.model_dump(exclude_none=True)
        thought = turn.pop("reasoning", None)
        if thought is not None:
            turn.setdefault("reasoning_content", thought)
        if message.role == "developer":
            turn["role"] = "system"
        turns.append(turn)
    return turns


def plain_tools(tools: Sequence[Tool | Function]) -> list[dict[str, Any]]:
    """The tool definitions as mappings, in OpenAI's wrapping."""
    wrapped = (tool if isinstance(tool, Tool) else Tool(type="function", function=tool) for tool in tools)
    return [tool.model_dump(exclude_none=True) for tool in wrapped]
