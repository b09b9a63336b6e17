"""What a native stream tells, as values to match on, and the decoder that makes them.

In: events of the wire, named as in `wire/native.py`. Out: `Progress`, `Reasoning`, `Text`, `ToolCall`,
`ToolArguments`, at last `Done`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from minimax_m1.client.call import Decoder
from minimax_m1.client.errors import told_in_stream
from minimax_m1.client.replies import parsed
from minimax_m1.wire.native import ArgumentsEvent, CallEvent, GenerateReply, ProgressEvent, TextEvent
from minimax_m1.wire.sse import Event as Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Tokens of the input that have been read, of how many; `cached` of them did not have to be read again."""

    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """New text of the thought before the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """New text of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool; `arguments` is JSON in a string, empty where `ToolArguments` bring it."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolArguments:
    """More of the arguments of the call of this index."""

    index: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end, with the whole reply."""

    reply: GenerateReply


Event: TypeAlias = Progress | Reasoning | Text | ToolCall | ToolArguments | Done


class GenerateDecoder(Decoder[Event, GenerateReply]):
    """Reads a native stream."""

    def text(self, event: Event) -> str:
        """As `Decoder.text`."""
        return event.text if isinstance(event, Text) else ""

    def _event(self, told: Told) -> Event | None:
        match told.name:
            case "progress":
                read = parsed(ProgressEvent, told.data)
                return Progress(processed=read.processed, total=read.total, cached=read.cached)
            case "reasoning":
                return Reasoning(text=parsed(TextEvent, told.data).text)
            case "text":
                return Text(text=parsed(TextEvent, told.data).text)
            case "tool_call":
                call = parsed(CallEvent, told.data)
                return ToolCall(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
            case "tool_arguments":
                more = parsed(ArgumentsEvent, told.data)
                return ToolArguments(index=more.index, text=more.text)
            case "done":
                self.reply = parsed(GenerateReply, told.data)
                return Done(reply=self.reply)
            case "error":
                raise told_in_stream(told.data)
        return None  # of a newer server
