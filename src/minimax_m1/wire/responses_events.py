"""OpenAI's Responses contract, the stream: what is told while a response is made.

Out: events, numbered from 0 within a response; the `type` of each is also its name in the stream. A response begins
with `response.created` and ends with `response.completed`, `.incomplete` or `.failed`; between them each output item
is added, filled and done.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from minimax_m1.wire.openai import ChosenToken
from minimax_m1.wire.responses import ResponseReply
from minimax_m1.wire.responses_items import OutputItem, OutputText, ReasoningText
from minimax_m1.wire.sse import Event


class Numbered(BaseModel):
    """What every event has."""

    sequence_number: int
    type: str

    def encode(self) -> bytes:
        """The event as it is sent."""
        return Event(name=self.type, data=self.model_dump_json(by_alias=True)).encode()


class LifeEvent(Numbered):
    """Where the response stands."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseReply


class ItemEvent(Numbered):
    """An output item begins, still empty, or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class Inside(Numbered):
    """Something that happens inside an output item."""

    item_id: str
    output_index: int


class InPart(Inside):
    """Something that happens inside a part of it; here an item has one part at most."""

    content_index: int = 0


class PartEvent(InPart):
    """A part begins, still empty, or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class TextDelta(InPart):
    """More of the answer."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[ChosenToken]


class TextDone(InPart):
    """The whole text of a message."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[ChosenToken]


class ThoughtDelta(InPart):
    """More of the thought."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    delta: str


class ThoughtDone(InPart):
    """The whole thought."""

    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    text: str


class ArgumentsDelta(Inside):
    """More of the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(Inside):
    """The whole arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str
