"""The native dialect: a `GenerateRequest` becomes a job, its items become a `GenerateReply` or events.

In: the bytes of a body. Out: a response, whole or streamed. The prompt is encoded off the event loop,
because a long document takes a while.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from minimax_m1.serve.bridge import Bridge, Loaded
from minimax_m1.serve.completion import Call, Item, Job, Outcome, Progress, Text, Thought, answer, outcomes, room
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.text.chat import encode_chat
from minimax_m1.wire.body import given, read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import plain, plain_tools
from minimax_m1.wire.native import (
    CallEvent,
    GenerateReply,
    GenerateRequest,
    NamedCall,
    ProgressEvent,
    TextEvent,
    Usage,
)
from minimax_m1.wire.sse import Event

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "thinking_budget",
    "seed",
)


async def generate(bridge: Bridge, name: str, body: bytes, ping: float) -> Response:
    """Answers one request; `name` is the model's, `ping` the seconds of silence before a ping.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model, or the engine failed.
    """
    asked, job = await asyncio.to_thread(_prepare, bridge.loaded, name, body)
    head: dict[str, Any] = {"id": f"gen-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    items = answer(bridge, [job])
    await anext(items)
    if asked.stream:
        return EventStream(_events(head, asked, job, items), ping=ping)
    [outcome] = await outcomes(items)
    reply = await _reply(head, asked, outcome)
    return Response(reply.model_dump_json(), media_type="application/json")


def _prepare(loaded: Loaded, name: str, body: bytes) -> tuple[GenerateRequest, Job]:
    asked = read(GenerateRequest, body)
    check_model(asked.model, name)
    messages = [{"role": "user", "content": asked.input}] if asked.messages is None else plain(asked.messages)
    tools = plain_tools(asked.tools) if asked.tools else None
    prompt = encode_chat(loaded.tokenizer, messages, tools, add_generation_prompt=True)
    most = room(
        len(prompt),
        asked.max_output_tokens if "max_output_tokens" in asked.model_fields_set else None,
        asked.context_window,
        loaded.engine.max_model_len,
        asked_name="max_output_tokens",
        param="input" if asked.messages is None else "messages",
    )
    most = min(most, asked.max_output_tokens)  # the default may be more than a small window holds
    params = replace(
        loaded.defaults,
        max_tokens=most,
        stop=tuple(asked.stop or ()),
        expert_threshold=asked.expert_threshold,
        **given(asked, _SAMPLING),
    )
    job = Job(
        prompt=prompt,
        params=params,
        tools=bool(asked.tools),
        priority=asked.priority,
        routing=asked.routing,
        routed_experts=asked.routed_experts,
    )
    return asked, job


async def _reply(head: dict[str, Any], asked: GenerateRequest, outcome: Outcome) -> GenerateReply:
    return GenerateReply(
        **head,
        text=outcome.text,
        reasoning=outcome.reasoning,
        tool_calls=[NamedCall(id=call.id, name=call.name, arguments=call.arguments) for call in outcome.calls],
        finish_reason=outcome.finish_reason,
        usage=Usage(
            input_tokens=outcome.input_tokens,
            cached_tokens=outcome.cached_tokens,
            output_tokens=outcome.output_tokens,
            reasoning_tokens=outcome.reasoning_tokens,
            total_tokens=outcome.input_tokens + outcome.output_tokens,
        ),
        # The full array of a long prompt is large, so it is written off the event loop.
        routing=await asyncio.to_thread(_routing, asked, outcome),
    )


def _routing(asked: GenerateRequest, outcome: Outcome) -> dict[str, Any] | None:
    report: dict[str, Any] = {}
    if outcome.trace is not None and asked.routing:
        report |= outcome.trace.report()
    if outcome.trace is not None and asked.routed_experts:
        report["routed_experts"] = outcome.trace.routed_experts()
    return report or None


async def _events(
    head: dict[str, Any], asked: GenerateRequest, job: Job, items: AsyncGenerator[tuple[int, Item], None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(items):
        yield _event("progress", ProgressEvent(processed=0, total=len(job.prompt)))
        try:
            async for _, item in items:
                match item:
                    case Progress():
                        yield _event("progress", ProgressEvent(processed=item.processed, total=item.total))
                    case Thought():
                        yield _event("reasoning", TextEvent(text=item.text))
                    case Text():
                        yield _event("text", TextEvent(text=item.text))
                    case Call():
                        call = CallEvent(index=item.index, id=item.id, name=item.name, arguments=item.arguments)
                        yield _event("tool_call", call)
                    case Outcome():
                        yield _event("done", await _reply(head, asked, item))
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            yield _event("error", fault_of(error).reply)


def _event(name: str, data: BaseModel) -> bytes:
    return Event(name=name, data=data.model_dump_json()).encode()
