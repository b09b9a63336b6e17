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
from typing import Any

from starlette.responses import Response

from minimax_m1.engine.context import Context
from minimax_m1.serve.answer import answer, outcomes
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.serve.contexts import open_context
from minimax_m1.serve.logprobs import chat_logprobs
from minimax_m1.serve.question import Question, jobs
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Call, CallDelta, Item, Job, Outcome, Progress, Text, Thought
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.body import read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import plain, plain_tools
from minimax_m1.wire.native import (
    ArgumentsEvent,
    CallEvent,
    GenerateReply,
    GenerateRequest,
    NamedCall,
    ProgressEvent,
    TextEvent,
    Usage,
)
from minimax_m1.wire.sse import Event


async def generate(service: Service, body: bytes, *, priority: int = 0) -> Response:
    """Answers one request; `priority` is added to the request's own.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model or context, or the engine failed.
    """
    return await generated(service, read(GenerateRequest, body), priority=priority)


async def generated(service: Service, asked: GenerateRequest, *, priority: int = 0) -> Response:
    """The same for a request that was read; raises as `generate` does."""
    check_model(asked.model, service.name)
    loaded = service.bridge.loaded
    context = None if asked.context_id is None else await open_context(service, asked.context_id)
    [job] = await asyncio.to_thread(_jobs, loaded, asked, context, priority)
    head: dict[str, Any] = {"id": f"gen-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    items = answer(service, [job], id=head["id"], kind="native")
    await anext(items)
    if asked.stream:
        return EventStream(_events(head, asked, loaded.tokenizer, job, items), ping=service.ping)
    [outcome] = await outcomes(items)
    reply = await _reply(head, asked, loaded.tokenizer, outcome)
    return Response(reply.model_dump_json(), media_type="application/json")


def _jobs(loaded: Loaded, asked: GenerateRequest, context: Context | None, priority: int) -> list[Job]:
    # What is asked for must fit the window; the default gives way to a small one.
    most: int | None = asked.max_output_tokens
    if "max_output_tokens" not in asked.model_fields_set:
        limit = loaded.engine.max_model_len
        most = min(asked.max_output_tokens, limit if asked.context_window is None else asked.context_window)
    question = Question(
        messages=[{"role": "user", "content": asked.input}] if asked.messages is None else plain(asked.messages),
        context=context,
        tools=plain_tools(asked.tools) if asked.tools else (),
        tool_choice=asked.choice(),
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        form=asked.form(),
        sampling=asked.chosen(),
        max_tokens=most,
        max_tokens_name="max_output_tokens",
        param="input" if asked.messages is None else "messages",
        context_window=asked.context_window,
        priority=asked.priority + priority,
        routed_experts=asked.routed_experts,
    )
    return jobs(loaded, question)


async def _reply(
    head: dict[str, Any], asked: GenerateRequest, tokenizer: MiniMaxM1Tokenizer, outcome: Outcome
) -> GenerateReply:
    told = None if asked.logprobs is None else chat_logprobs(tokenizer, outcome.tokens, asked.logprobs)
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
        logprobs=told,
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
    head: dict[str, Any],
    asked: GenerateRequest,
    tokenizer: MiniMaxM1Tokenizer,
    job: Job,
    items: AsyncGenerator[tuple[int, Item], None],
) -> AsyncGenerator[bytes, None]:
    async with aclosing(items):
        yield Event.of(ProgressEvent(processed=0, total=len(job.prompt)), name="progress").encode()
        try:
            async for _, item in items:
                match item:
                    case Progress():
                        told = ProgressEvent(processed=item.processed, total=item.total, cached=item.cached)
                        yield Event.of(told, name="progress").encode()
                    case Thought():
                        yield Event.of(TextEvent(text=item.text), name="reasoning").encode()
                    case Text():
                        if item.text:
                            yield Event.of(TextEvent(text=item.text), name="text").encode()
                    case Call():
                        call = CallEvent(index=item.index, id=item.id, name=item.name, arguments=item.arguments)
                        yield Event.of(call, name="tool_call").encode()
                    case CallDelta():
                        yield Event.of(
                            ArgumentsEvent(index=item.index, text=item.arguments), name="tool_arguments"
                        ).encode()
                    case Outcome():
                        yield Event.of(await _reply(head, asked, tokenizer, item), name="done").encode()
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            yield Event.of(fault_of(error).reply, name="error").encode()
