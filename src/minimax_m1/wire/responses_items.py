"""OpenAI's Responses contract, the items: what a conversation is made of there.

In: items as clients write them (`GivenItem`), short forms included; a kind that is not served is refused by name.
Out: `Item`s, each with its id, as they are stored, listed and told; `plain_items`, the same as messages for the chat
template.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Open
from minimax_m1.wire.openai import ChosenToken

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Role = Literal["user", "assistant", "system", "developer"]
_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_TEXTS = ("input_text", "output_text", "text")
_SEAL = "plain:"


class InputText(BaseModel):
    """A text of the user's, or of the system's."""

    type: Literal["input_text"] = "input_text"
    text: str


class OutputText(BaseModel):
    """A text of the assistant's; nothing here annotates it."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[ChosenToken] = []


class RefusalText(BaseModel):
    """What an assistant said instead of an answer; it comes from clients only."""

    type: Literal["refusal"] = "refusal"
    refusal: str


class ReasoningText(BaseModel):
    """A thought."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(BaseModel):
    """A summary of a thought; it comes from clients only."""

    type: Literal["summary_text"] = "summary_text"
    text: str


Part = Annotated[InputText | OutputText | RefusalText, Field(discriminator="type")]


class MessageItem(BaseModel):
    """One message."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Role
    content: list[Part]

    @property
    def text(self) -> str:
        """All its parts, joined."""
        return "".join(part.refusal if isinstance(part, RefusalText) else part.text for part in self.content)


class ReasoningItem(BaseModel):
    """A thought. `encrypted_content`, where it was asked for, says it again for clients that hand back only that."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def text(self) -> str:
        """The thought, from wherever it stands."""
        if self.content:
            return "".join(part.text for part in self.content)
        return unsealed(self.encrypted_content) if self.encrypted_content else ""


class CallItem(BaseModel):
    """A function call; `arguments` is JSON in a string."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class CallOutputItem(BaseModel):
    """What the function gave."""

    id: str
    type: Literal["function_call_output"] = "function_call_output"
    status: ItemStatus
    call_id: str
    output: str | list[InputText]

    @property
    def text(self) -> str:
        """All of it."""
        return self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)


Item = Annotated[MessageItem | ReasoningItem | CallItem | CallOutputItem, Field(discriminator="type")]
OutputItem = Annotated[ReasoningItem | MessageItem | CallItem, Field(discriminator="type")]


def sealed(thought: str) -> str:
    """A thought as `encrypted_content`. It is not secret here, so this is base64, which only clients find opaque."""
    return _SEAL + base64.b64encode(thought.encode()).decode()


def unsealed(content: str) -> str:
    """The thought again.

    Raises:
        RequestError: it was not sealed here.
    """
    try:
        if not content.startswith(_SEAL):
            raise ValueError(content)
        return base64.b64decode(content.removeprefix(_SEAL), validate=True).decode()
    except ValueError:
        raise RequestError("encrypted_content comes from another server, or was changed", param="input") from None


class GivenText(Open):
    """A text part, under any of its names."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class GivenRefusal(Open):
    """A refusal that the assistant once gave."""

    type: Literal["refusal"]
    refusal: str


def _a_text(part: Any) -> Any:
    if isinstance(part, dict) and (kind := part.get("type")) not in (*_TEXTS, "refusal"):
        raise RequestError(f"content of the type {kind!r} is not served: this model reads text", param="input")
    return part


GivenPart = Annotated[GivenText | GivenRefusal, Field(discriminator="type"), BeforeValidator(_a_text)]


class GivenMessage(Open):
    """A message, from a role and a text upwards."""

    type: Literal["message"] = "message"
    role: Role
    content: str | list[GivenPart]
    id: str | None = None
    status: ItemStatus | None = None

    def item(self, id: str) -> MessageItem:
        """The whole item; `id` where it has none of its own."""
        parts: list[InputText | OutputText | RefusalText] = []
        for part in [GivenText(type="text", text=self.content)] if isinstance(self.content, str) else self.content:
            text = part.refusal if isinstance(part, GivenRefusal) else part.text
            if self.role != "assistant":
                parts.append(InputText(text=text))
            else:
                parts.append(RefusalText(refusal=text) if isinstance(part, GivenRefusal) else OutputText(text=text))
        return MessageItem(id=self.id or id, status=self.status or "completed", role=self.role, content=parts)


class GivenReasoning(Open):
    """A thought of the assistant's that the client hands back."""

    type: Literal["reasoning"]
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: ItemStatus | None = None

    def item(self, id: str) -> ReasoningItem:
        """As `GivenMessage.item`."""
        return ReasoningItem(
            id=self.id or id,
            status=self.status or "completed",
            summary=self.summary or [],
            content=self.content,
            encrypted_content=self.encrypted_content,
        )


class GivenCall(Open):
    """A function call of the assistant's."""

    type: Literal["function_call"]
    call_id: str
    name: Annotated[str, Field(min_length=1)]
    arguments: str
    id: str | None = None
    status: ItemStatus | None = None

    def item(self, id: str) -> CallItem:
        """As `GivenMessage.item`."""
        return CallItem(
            id=self.id or id,
            status=self.status or "completed",
            call_id=self.call_id,
            name=self.name,
            arguments=self.arguments,
        )


class GivenCallOutput(Open):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Annotated[GivenText, BeforeValidator(_a_text)]]
    id: str | None = None
    status: ItemStatus | None = None

    def item(self, id: str) -> CallOutputItem:
        """As `GivenMessage.item`."""
        output = self.output if isinstance(self.output, str) else [InputText(text=part.text) for part in self.output]
        return CallOutputItem(id=self.id or id, status=self.status or "completed", call_id=self.call_id, output=output)


class ItemReference(Open):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"]
    id: str


def _a_kind(item: Any) -> Any:
    """A message may leave its type out."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind is None:
        return {**item, "type": "message"}
    if kind not in _KINDS:
        raise RequestError(f"items of the type {kind!r} are not served, only {', '.join(_KINDS)}", param="input")
    return item


GivenItem = Annotated[
    GivenMessage | GivenReasoning | GivenCall | GivenCallOutput | ItemReference,
    Field(discriminator="type"),
    BeforeValidator(_a_kind),
]


def plain_items(items: Sequence[Item], instructions: str | None = None) -> list[dict[str, Any]]:
    """The items as messages for the chat template, `instructions` first.

    The assistant's thought, text and calls that follow one another are one turn; a second text begins another.

    Raises:
        RequestError: a thought is sealed and not by this server.
    """
    turns: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    turn: dict[str, Any] | None = None  # of the assistant, as long as more may join it

    def open_turn(*taken: str) -> dict[str, Any]:
        nonlocal turn
        if turn is None or any(name in turn for name in taken):
            turn = {"role": "assistant"}
            turns.append(turn)
        return turn

    for item in items:
        match item:
            case ReasoningItem(text=text):
                if text:
                    open_turn("reasoning_content", "content", "tool_calls")["reasoning_content"] = text
            case MessageItem(role="assistant", text=text):
                open_turn("content", "tool_calls")["content"] = text
            case CallItem():
                call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
                open_turn().setdefault("tool_calls", []).append(call)
            case MessageItem(role=role, text=text):
                turn = None
                turns.append({"role": "system" if role == "developer" else role, "content": text})
            case CallOutputItem(call_id=id, text=text):
                turn = None
                turns.append({"role": "tool", "tool_call_id": id, "content": text})
    return turns
