"""OpenAI's dialect: a `ChatRequest` becomes `n` jobs, their items become a `ChatReply` or chunks.

In: the bytes of a body. Out: a response, whole or streamed. The prompt is encoded off the event loop,
because a long document takes a while.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from minimax_m1.serve.bridge import Bridge, Loaded
from minimax_m1.serve.completion import Call, Item, Job, Outcome, Progress, Text, Thought, answer, outcomes, room
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.text.chat import encode_chat
from minimax_m1.wire.body import given, read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import FunctionCall, plain, plain_tools
from minimax_m1.wire.openai import (
    CallOut,
    ChatChunk,
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    ChunkChoice,
    CompletionDetails,
    Delta,
    FinishedBy,
    MessageOut,
    PromptDetails,
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
    "min_tokens",
    "seed",
    "stop_token_ids",
    "ignore_eos",
    "expert_threshold",
)


async def complete_chat(bridge: Bridge, name: str, body: bytes, ping: float) -> Response:
    """Answers one request; `name` is the model's, `ping` the seconds of silence before a ping.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model, or the engine failed.
    """
    asked, jobs = await asyncio.to_thread(_prepare, bridge.loaded, name, body)
    head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    items = answer(bridge, jobs)
    await anext(items)
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return EventStream(_chunks(head, usage, len(jobs), items), ping=ping)
    ends = await outcomes(items)
    reply = ChatReply(**head, choices=[_choice(index, end) for index, end in enumerate(ends)], usage=_usage(ends))
    return Response(reply.model_dump_json(), media_type="application/json")


def _prepare(loaded: Loaded, name: str, body: bytes) -> tuple[ChatRequest, list[Job]]:
    asked = read(ChatRequest, body)
    check_model(asked.model, name)
    tools = plain_tools(asked.tools) if asked.tools and asked.tool_choice != "none" else None
    prompt = encode_chat(loaded.tokenizer, plain(asked.messages), tools, add_generation_prompt=True)
    limit = loaded.engine.max_model_len
    asked_name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    most = room(len(prompt), getattr(asked, asked_name), None, limit, asked_name=asked_name, param="messages")
    if getattr(asked, asked_name) is None:
        most = min(most, loaded.defaults.max_tokens)
    params = replace(loaded.defaults, max_tokens=most, stop=tuple(asked.stop or ()), **given(asked, _SAMPLING))
    job = Job(
        prompt=prompt, params=params, tools=tools is not None, parallel_calls=asked.parallel_tool_calls is not False
    )
    return asked, [replace(job, params=replace(params, seed=_nth(params.seed, i))) for i in range(asked.n or 1)]


def _nth(seed: int | None, index: int) -> int | None:
    """The seed of the answer `index`; the first has the one that was asked for, so n does not change it."""
    return seed if seed is None or index == 0 else (seed + index) % 2**63


def _choice(index: int, outcome: Outcome) -> Choice:
    return Choice(
        index=index,
        message=MessageOut(
            content=outcome.text if outcome.text or not outcome.calls else None,
            reasoning_content=outcome.reasoning or None,
            reasoning=outcome.reasoning or None,
            tool_calls=[_call(call) for call in outcome.calls] or None,
        ),
        finish_reason=_finish(outcome),
    )


def _finish(outcome: Outcome) -> FinishedBy:
    """OpenAI has no word for an answer that went round in a loop; what it says is that the answer was cut."""
    return "length" if outcome.finish_reason == "repetition" else outcome.finish_reason


def _call(call: Call, *, index: int | None = None) -> CallOut:
    return CallOut(index=index, id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))


def _usage(outcomes: Sequence[Outcome]) -> ChatUsage:
    prompt, made = outcomes[0].input_tokens, sum(outcome.output_tokens for outcome in outcomes)
    return ChatUsage(
        prompt_tokens=prompt,
        completion_tokens=made,
        total_tokens=prompt + made,
        prompt_tokens_details=PromptDetails(cached_tokens=outcomes[0].cached_tokens),
        completion_tokens_details=CompletionDetails(reasoning_tokens=sum(each.reasoning_tokens for each in outcomes)),
    )


async def _chunks(
    head: dict[str, Any], usage: bool, count: int, items: AsyncGenerator[tuple[int, Item], None]
) -> AsyncGenerator[bytes, None]:
    ends: list[Outcome] = []
    async with aclosing(items):
        for index in range(count):
            yield _chunk(head, ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        try:
            async for index, item in items:
                match item:
                    case Progress():
                        continue  # OpenAI's stream has no word for it; pings keep the connection alive
                    case Thought():
                        choice = ChunkChoice(index=index, delta=Delta(reasoning_content=item.text, reasoning=item.text))
                    case Text():
                        choice = ChunkChoice(index=index, delta=Delta(content=item.text))
                    case Call():
                        choice = ChunkChoice(index=index, delta=Delta(tool_calls=[_call(item, index=item.index)]))
                    case Outcome():
                        ends.append(item)
                        choice = ChunkChoice(index=index, delta=Delta(), finish_reason=_finish(item))
                yield _chunk(head, choice)
            if usage:
                yield _data(ChatChunk(**head, choices=[], usage=_usage(ends)).model_dump_json())
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            yield _data(fault_of(error).reply.model_dump_json())
        yield _data("[DONE]")


def _chunk(head: dict[str, Any], choice: ChunkChoice) -> bytes:
    return _data(ChatChunk(**head, choices=[choice]).model_dump_json())


def _data(data: str) -> bytes:
    return Event(data=data).encode()
