"""Anthropic's dialect: a `MessageRequest` becomes one job, its items become a `MessageReply` or events.

In: the bytes of a body. Out: a response, whole or streamed; also the tokens of a body counted. The prompt is encoded
off the event loop, because a long document takes a while.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import Response

from minimax_m1.engine.context import Context
from minimax_m1.serve.answer import answer, outcomes
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.serve.contexts import open_context
from minimax_m1.serve.question import Question, jobs
from minimax_m1.serve.registry import request_id
from minimax_m1.serve.replies import anthropic_headers, json_reply
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Call, CallDelta, Item, Job, Outcome, Progress, Text, Thought
from minimax_m1.text.chat import encode_chat
from minimax_m1.wire.anthropic import (
    UNSIGNED,
    CountReply,
    CountRequest,
    MessageReply,
    MessageRequest,
    MessageUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ThinkingDetails,
    ToolUseBlock,
)
from minimax_m1.wire.anthropic_events import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Ended,
    Failure,
    InputDelta,
    MessageDelta,
    MessageEvent,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)
from minimax_m1.wire.body import read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.sse import Event


async def create_message(service: Service, body: bytes, *, priority: int = 0) -> Response:
    """Answers one request; `priority` is added to the request's own.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model or context, or the engine failed.
    """
    asked = read(MessageRequest, body)
    check_model(asked.model, service.name)
    context = None if asked.context_id is None else await open_context(service, asked.context_id)
    made = await asyncio.to_thread(_jobs, service.bridge.loaded, asked, context, priority)
    id = f"msg_{uuid.uuid4().hex}"
    items = answer(service, made, id=id, kind="messages")
    await anext(items)
    if asked.stream:
        stream = EventStream(_Stream(service, asked, id, len(made[0].prompt)).of(items), ping=service.ping)
        stream.headers.update(anthropic_headers())
        return stream
    [end] = await outcomes(items)
    reply = MessageReply(
        id=id,
        model=service.name,
        content=_content(asked, end),
        stop_reason=_stop_reason(asked, end),
        stop_sequence=end.stop_string,
        usage=_usage(end),
    )
    return _json(reply)


async def count_tokens(service: Service, body: bytes, *, priority: int = 0) -> Response:
    """Says how many tokens a request would put before the model, however many these are; nothing waits for its turn.

    Raises:
        RequestError: the request cannot be read.
        Fault: there is no such model.
    """
    asked = read(CountRequest, body)
    check_model(asked.model, service.name)
    return _json(CountReply(input_tokens=await asyncio.to_thread(_count, service.bridge.loaded, asked)))


def _jobs(loaded: Loaded, asked: MessageRequest, context: Context | None, priority: int) -> list[Job]:
    sampling = asked.chosen()
    schema = asked.schema_asked()
    question = Question(
        messages=asked.plain_messages(),
        context=context,
        tools=asked.plain_tools(),
        tool_choice=asked.choice(),
        parallel_tool_calls=not (asked.tool_choice and asked.tool_choice.disable_parallel_tool_use),
        form=None if schema is None else {"json": schema},
        effort=asked.output_config.effort if asked.output_config else None,
        sampling=sampling,
        max_tokens=asked.max_tokens,
        priority=asked.priority + priority,
    )
    return jobs(loaded, question)


def _count(loaded: Loaded, asked: CountRequest) -> int:
    tools = [] if asked.choice() == "none" else asked.plain_tools()
    return len(encode_chat(loaded.tokenizer, asked.plain_messages(), tools or None, add_generation_prompt=True))


def _content(asked: MessageRequest, end: Outcome) -> list[TextBlock | ThinkingBlock | ToolUseBlock]:
    blocks: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    if end.reasoning:
        blocks.append(ThinkingBlock(thinking="" if asked.hides_thought else end.reasoning, signature=UNSIGNED))
    if end.text:
        blocks.append(TextBlock(text=end.text))
    calls = [ToolUseBlock.of(id=_tool_id(call), name=call.name, arguments=call.arguments) for call in end.calls]
    return [*blocks, *calls]


def _stop_reason(asked: MessageRequest, end: Outcome) -> StopReason:
    if end.stop_string is not None:
        return "stop_sequence"
    match end.finish_reason:
        case "stop":
            return "end_turn"
        case "tool_calls":
            return "tool_use"
        case "length" if end.output_tokens < asked.max_tokens:
            return "model_context_window_exceeded"
        case _:  # a reply that went round in a loop was cut as well, and Anthropic has no word for it
            return "max_tokens"


def _usage(end: Outcome) -> MessageUsage:
    return MessageUsage(
        input_tokens=end.input_tokens - end.cached_tokens,
        cache_read_input_tokens=end.cached_tokens,
        output_tokens=end.output_tokens,
        output_tokens_details=ThinkingDetails(thinking_tokens=end.reasoning_tokens),
    )


def _tool_id(call: Call) -> str:
    return "toolu_" + call.id.removeprefix("call_")


class _Stream:
    """The events of one message: which block is open, and how to get to the next."""

    def __init__(self, service: Service, asked: MessageRequest, id: str, prompt_tokens: int) -> None:
        self._service = service
        self._asked = asked
        self._id = id
        self._prompt_tokens = prompt_tokens
        self._began = False
        self._index = -1  # of the last block
        self._open: type[BaseModel] | None = None

    async def of(self, items: AsyncGenerator[tuple[int, Item], None]) -> AsyncGenerator[bytes, None]:
        """The events as they are sent; a failure takes the place of what is left."""
        async with aclosing(items):
            try:
                async for _, item in items:
                    for event in self._events(item):
                        yield _encoded(event)
            except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
                yield _encoded(Failure.of(fault_of(error), request_id.get()))

    def _events(self, item: Item) -> Iterator[MessageEvent]:
        if not self._began:
            self._began = True
            yield self._start()
        match item:
            case Progress():
                yield Ping()
            case Thought():
                yield from self._to(ThinkingBlock(thinking="", signature=""))
                if not self._asked.hides_thought:
                    yield self._delta(ThinkingDelta(thinking=item.text))
            case Text():
                yield from self._to(TextBlock(text=""))
                yield self._delta(TextDelta(text=item.text))
            case Call():
                yield from self._close()
                yield from self._to(ToolUseBlock(id=_tool_id(item), name=item.name, input={}))
                yield self._delta(InputDelta(partial_json=item.arguments))
            case CallDelta():
                yield self._delta(InputDelta(partial_json=item.arguments))
            case Outcome():
                yield from self._close()
                ended = Ended(stop_reason=_stop_reason(self._asked, item), stop_sequence=item.stop_string)
                yield MessageDelta(delta=ended, usage=_usage(item))
                yield MessageStop()

    def _start(self) -> MessageStart:
        """The message before its first block; what was cached is known by now, and the list of requests has it."""
        cached = next((entry.cached_tokens for entry in self._service.registry if entry.id == self._id), 0)
        usage = MessageUsage(
            input_tokens=self._prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=0,
            output_tokens_details=ThinkingDetails(thinking_tokens=0),
        )
        message = MessageReply(
            id=self._id, model=self._service.name, content=[], stop_reason=None, stop_sequence=None, usage=usage
        )
        return MessageStart(message=message)

    def _to(self, block: TextBlock | ThinkingBlock | ToolUseBlock) -> Iterator[MessageEvent]:
        """Closes what is open and begins a block, unless one of the same kind is open."""
        if self._open is not type(block):
            yield from self._close()
            self._index, self._open = self._index + 1, type(block)
            yield BlockStart(index=self._index, content_block=block)

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta) -> BlockDelta:
        return BlockDelta(index=self._index, delta=delta)

    def _close(self) -> Iterator[MessageEvent]:
        if self._open is ThinkingBlock:
            yield self._delta(SignatureDelta())
        if self._open is not None:
            self._open = None
            yield BlockStop(index=self._index)


def _encoded(event: MessageEvent) -> bytes:
    return Event(name=event.type, data=event.model_dump_json()).encode()


def _json(reply: BaseModel) -> Response:
    response = json_reply(reply)
    response.headers.update(anthropic_headers())
    return response
