"""`Draft`: a response while it is made; the engine's items go in, OpenAI's events come out.

In: a `ResponseReply` without output, then the items of its one job, at last an `Outcome` or a fault.
Out: the events of each item, numbered; `reply`, the response as far as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from minimax_m1.serve.logprobs import chat_logprobs
from minimax_m1.serve.teller import Call, CallDelta, Item, Outcome, Text, Thought, Token
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.openai import ChosenToken
from minimax_m1.wire.responses import (
    CachedTokens,
    Incomplete,
    ResponseFailure,
    ResponseReply,
    ResponseUsage,
    ThoughtTokens,
)
from minimax_m1.wire.responses_events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    LifeEvent,
    Numbered,
    PartEvent,
    TextDelta,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
)
from minimax_m1.wire.responses_items import (
    CallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    sealed,
)

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
Kind = Literal["reasoning", "message", "function_call"]


@dataclass(slots=True, kw_only=True)
class _Open:
    """The output item that is being written."""

    kind: Kind
    id: str
    call: Call | None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ChosenToken] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def part(self) -> OutputText | ReasoningText | None:
        """What the item holds so far; a call has no parts."""
        if self.kind == "message":
            return OutputText(text=self.text, logprobs=self.logprobs)
        return ReasoningText(text=self.text) if self.kind == "reasoning" else None

    def item(self, status: ItemStatus, *, seal: bool) -> OutputItem:
        """The item with this status; in progress it is still empty."""
        part = None if status == "in_progress" else self.part()
        if self.call is not None:
            call_id, name = self.call.id, self.call.name
            return CallItem(id=self.id, status=status, call_id=call_id, name=name, arguments=self.text)
        if self.kind == "message":
            content = [part] if isinstance(part, OutputText) else []
            return MessageItem(id=self.id, status=status, role="assistant", content=list(content))
        thought = [part] if isinstance(part, ReasoningText) else []
        content_again = sealed(self.text) if seal and thought else None
        return ReasoningItem(id=self.id, status=status, content=thought, encrypted_content=content_again)


class Draft:
    """One response. `logprobs` is how many of the likeliest tokens to tell; `seal` says each thought again, sealed."""

    def __init__(self, reply: ResponseReply, tokenizer: MiniMaxM1Tokenizer, *, logprobs: int, seal: bool) -> None:
        self._reply = reply
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._seal = seal
        self._output: list[OutputItem] = []
        self._open: _Open | None = None
        self._number = 0
        self._told: list[Numbered] = []

    @property
    def reply(self) -> ResponseReply:
        """The response with the output items that are whole."""
        return self._reply.model_copy(update={"output": list(self._output)})

    @property
    def over(self) -> bool:
        """True once nothing more will come."""
        return self._reply.status not in ("queued", "in_progress")

    def begin(self) -> list[Numbered]:
        """The events before any item."""
        self._life("response.created")
        self._life("response.queued" if self._reply.status == "queued" else "response.in_progress")
        return self._take()

    def push(self, item: Item) -> list[Numbered]:
        """The events that this item makes; with the outcome, all that are left."""
        if self._reply.status == "queued":
            self._set(status="in_progress")
            self._life("response.in_progress")
        match item:
            case Thought(text=text):
                self._into("reasoning").pieces.append(text)
                self._inside(ThoughtDelta, delta=text)
            case Text(text=text, tokens=tokens):
                # Tokens without text are what is left at the end: no reason to begin a message.
                if text or (self._open is not None and self._open.kind == "message"):
                    self._say(text, tokens)
            case Call():
                self._close("completed")
                self._begin("function_call", item)
                self._argue(item.arguments)
            case CallDelta(arguments=arguments):
                self._argue(arguments)
            case Outcome():
                self._end(item)
        return self._take()

    def fail(self, fault: Fault) -> list[Numbered]:
        """The events of an end that came from outside: a failure, or somebody cancelled it."""
        self._close("incomplete")
        if fault.code == "request_cancelled":
            self._set(status="cancelled")
        else:
            self._set(status="failed", error=_failure(fault))
        self._life("response.failed")  # there is no event of its own for a cancelled one
        return self._take()

    def _end(self, outcome: Outcome) -> None:
        cut = outcome.finish_reason in ("length", "repetition")
        self._close("incomplete" if cut else "completed")
        if not cut and all(item.type == "reasoning" for item in self._output):
            self._begin("message")  # an empty answer is an answer
            self._close("completed")
        usage = ResponseUsage(
            input_tokens=outcome.input_tokens,
            input_tokens_details=CachedTokens(cached_tokens=outcome.cached_tokens),
            output_tokens=outcome.output_tokens,
            output_tokens_details=ThoughtTokens(reasoning_tokens=outcome.reasoning_tokens),
            total_tokens=outcome.input_tokens + outcome.output_tokens,
        )
        if cut:
            self._set(status="incomplete", incomplete_details=Incomplete(reason="max_output_tokens"), usage=usage)
            self._life("response.incomplete")
        else:
            self._set(status="completed", completed_at=int(time.time()), usage=usage)
            self._life("response.completed")

    def _say(self, text: str, tokens: tuple[Token, ...]) -> None:
        told = chat_logprobs(self._tokenizer, tokens, self._logprobs).content
        message = self._into("message")
        message.pieces.append(text)
        message.logprobs += told
        self._inside(TextDelta, delta=text, logprobs=told)

    def _argue(self, arguments: str) -> None:
        assert self._open is not None and self._open.kind == "function_call"
        if arguments:
            self._open.pieces.append(arguments)
            self._inside(ArgumentsDelta, delta=arguments)

    def _into(self, kind: Kind) -> _Open:
        """The open item, after another one was closed and this begun where it is of another kind."""
        if self._open is None or self._open.kind != kind:
            self._close("completed")
            self._begin(kind)
        assert self._open is not None
        return self._open

    def _begin(self, kind: Kind, call: Call | None = None) -> None:
        key = self._reply.id.partition("_")[2]
        self._open = _Open(kind=kind, id=f"{_PREFIXES[kind]}_{key}_{len(self._output)}", call=call)
        empty = self._open.item("in_progress", seal=False)
        self._tell(ItemEvent, type="response.output_item.added", output_index=len(self._output), item=empty)
        if part := self._open.part():
            self._inside(PartEvent, type="response.content_part.added", part=part)

    def _close(self, status: ItemStatus) -> None:
        if (done := self._open) is None:
            return
        match done.kind:
            case "reasoning":
                self._inside(ThoughtDone, text=done.text)
            case "message":
                self._inside(TextDone, text=done.text, logprobs=done.logprobs)
            case "function_call":
                assert done.call is not None
                self._inside(ArgumentsDone, name=done.call.name, arguments=done.text)
        if part := done.part():
            self._inside(PartEvent, type="response.content_part.done", part=part)
        item = done.item(status, seal=self._seal)
        self._tell(ItemEvent, type="response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None

    def _inside(self, event: type[Numbered], **fields: Any) -> None:
        assert self._open is not None
        self._tell(event, item_id=self._open.id, output_index=len(self._output), **fields)

    def _life(self, type: str) -> None:
        self._tell(LifeEvent, type=type, response=self.reply)

    def _set(self, **fields: Any) -> None:
        self._reply = self._reply.model_copy(update=fields)

    def _tell(self, event: type[Numbered], **fields: Any) -> None:
        self._told.append(event(sequence_number=self._number, **fields))
        self._number += 1

    def _take(self) -> list[Numbered]:
        told, self._told = self._told, []
        return told


def _failure(fault: Fault) -> ResponseFailure:
    if fault.code == "server_busy":
        return ResponseFailure(code="rate_limit_exceeded", message=str(fault))
    return ResponseFailure(code="invalid_prompt" if fault.status == 400 else "server_error", message=str(fault))
