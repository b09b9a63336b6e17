"""OpenAI's chat completions: a `ChatRequest` becomes `n` jobs, their items become a `ChatReply` or chunks.

In: the bytes of a body. Out: a response, whole or streamed. The prompt is encoded off the event loop,
because a long document takes a while.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.responses import Response

from minimax_m1.engine.context import Context
from minimax_m1.serve.answer import answer, outcomes
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.serve.contexts import open_context
from minimax_m1.serve.logprobs import chat_logprobs, prompt_logprobs
from minimax_m1.serve.question import Question, jobs
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Call, CallDelta, Item, Job, Outcome, Progress, Text, Thought, Token
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.body import read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import FunctionCall, plain, plain_tools
from minimax_m1.wire.openai import (
    CallOut,
    CallPart,
    ChatChunk,
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    ChunkChoice,
    CompletionDetails,
    Delta,
    FinishedBy,
    Logprobs,
    MessageOut,
    MoreArguments,
    PromptDetails,
    PromptProgress,
)
from minimax_m1.wire.sse import Event


async def complete_chat(service: Service, body: bytes, *, priority: int = 0) -> Response:
    """Answers one request; `priority` is added to the request's own.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model or context, or the engine failed.
    """
    asked = read(ChatRequest, body)
    check_model(asked.model, service.name)
    loaded = service.bridge.loaded
    context = None if asked.context_id is None else await open_context(service, asked.context_id)
    made = await asyncio.to_thread(_jobs, loaded, asked, context, priority)
    head: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.name,
    }
    items = answer(service, made, id=head["id"], kind="chat")
    await anext(items)
    if asked.stream:
        return EventStream(_Chunks(head, asked, loaded.tokenizer, len(made)).of(items), ping=service.ping)
    ends = await outcomes(items)
    reply = await asyncio.to_thread(_reply, head, asked, loaded.tokenizer, made, ends)
    return Response(reply.model_dump_json(), media_type="application/json")


def _jobs(loaded: Loaded, asked: ChatRequest, context: Context | None, priority: int) -> list[Job]:
    sampling = asked.chosen()
    name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    question = Question(
        messages=plain(asked.messages),
        context=context,
        tools=plain_tools(asked.tools) if asked.tools else (),
        tool_choice=asked.choice(),
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        form=asked.form(),
        effort=asked.reasoning_effort,
        sampling=sampling,
        max_tokens=getattr(asked, name),
        max_tokens_name=name,
        n=asked.n or 1,
        priority=asked.priority + priority,
        routed_experts=asked.return_routed_experts,
    )
    return jobs(loaded, question)


def _reply(
    head: dict[str, Any],
    asked: ChatRequest,
    tokenizer: MiniMaxM1Tokenizer,
    made: Sequence[Job],
    ends: Sequence[Outcome],
) -> ChatReply:
    told = ends[0].prompt_logprobs
    return ChatReply(
        **head,
        choices=[_choice(asked, tokenizer, index, end) for index, end in enumerate(ends)],
        usage=usage_of([ends]),
        prompt_logprobs=None if told is None else prompt_logprobs(tokenizer, told),
        prompt_token_ids=[int(id) for id in made[0].prompt] if asked.return_token_ids else None,
    )


def _choice(asked: ChatRequest, tokenizer: MiniMaxM1Tokenizer, index: int, end: Outcome) -> Choice:
    reasoning = (end.reasoning or None) if asked.include_reasoning else None
    return Choice(
        index=index,
        message=MessageOut(
            content=end.text if end.text or not end.calls else None,
            reasoning_content=reasoning,
            reasoning=reasoning,
            tool_calls=[_call(call) for call in end.calls] or None,
        ),
        logprobs=_logprobs(asked, tokenizer, end.tokens),
        finish_reason=_finish(end),
        token_ids=list(end.token_ids) if asked.return_token_ids else None,
        routed_experts=end.trace.routed_experts() if asked.return_routed_experts and end.trace else None,
    )


def _finish(outcome: Outcome) -> FinishedBy:
    """OpenAI has no word for an answer that went round in a loop; what it says is that the answer was cut."""
    return "length" if outcome.finish_reason == "repetition" else outcome.finish_reason


def _call(call: Call, *, index: int | None = None) -> CallOut:
    return CallOut(index=index, id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))


def _logprobs(asked: ChatRequest, tokenizer: MiniMaxM1Tokenizer, tokens: Sequence[Token]) -> Logprobs | None:
    return chat_logprobs(tokenizer, tokens, asked.top_logprobs or 0) if asked.logprobs else None


def usage_of(prompts: Sequence[Sequence[Outcome]]) -> ChatUsage:
    """What the answers to some prompts used, all answers to one prompt together; the prompt is counted once."""
    every = [outcome for outcomes in prompts for outcome in outcomes]
    read, made = sum(outcomes[0].input_tokens for outcomes in prompts), sum(each.output_tokens for each in every)
    return ChatUsage(
        prompt_tokens=read,
        completion_tokens=made,
        total_tokens=read + made,
        prompt_tokens_details=PromptDetails(cached_tokens=sum(outcomes[0].cached_tokens for outcomes in prompts)),
        completion_tokens_details=CompletionDetails(reasoning_tokens=sum(each.reasoning_tokens for each in every)),
    )


class _Chunks:
    """A stream of chunks: `n` openings, what comes, `n` ends, the usage if asked for, and OpenAI's last word."""

    def __init__(self, head: dict[str, Any], asked: ChatRequest, tokenizer: MiniMaxM1Tokenizer, count: int) -> None:
        self._head = head
        self._asked = asked
        self._count = count
        self._logprobs = partial(_logprobs, asked, tokenizer)
        self._began = time.monotonic()
        self._ends: list[Outcome] = []

    async def of(self, items: AsyncGenerator[tuple[int, Item], None]) -> AsyncGenerator[bytes, None]:
        """The chunks as bytes."""
        options = self._asked.stream_options
        async with aclosing(items):
            for index in range(self._count):
                yield self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
            try:
                async for index, item in items:
                    if chunk := self._told(index, item):
                        yield chunk
                if options is not None and options.include_usage:
                    yield Event.of(ChatChunk(**self._head, choices=[], usage=usage_of([self._ends]))).encode()
            except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
                yield Event.of(fault_of(error).reply).encode()
            yield Event(data="[DONE]").encode()

    def _told(self, index: int, item: Item) -> bytes | None:
        finish: FinishedBy | None = None
        tokens: Sequence[Token] = ()
        match item:
            case Progress():
                return self._progress(item) if self._asked.return_progress else None  # else pings keep it alive
            case Thought(text=text, tokens=tokens):
                if not self._asked.include_reasoning:
                    return None
                delta = Delta(reasoning_content=text, reasoning=text)
            case Text(text=text, tokens=tokens):
                delta = Delta(content=text)
            case Call():
                delta = Delta(tool_calls=[_call(item, index=item.index)])
            case CallDelta():
                part = CallPart(index=item.index, function=MoreArguments(arguments=item.arguments))
                delta = Delta(tool_calls=[part])
            case Outcome():
                self._ends.append(item)
                delta, finish = Delta(), _finish(item)
        told = self._logprobs(tokens) if tokens else None
        return self._chunk(ChunkChoice(index=index, delta=delta, logprobs=told, finish_reason=finish))

    def _progress(self, item: Progress) -> bytes:
        spent = int(1000 * (time.monotonic() - self._began))
        progress = PromptProgress(total=item.total, cache=item.cached, processed=item.processed, time_ms=spent)
        return Event.of(ChatChunk(**self._head, choices=[], prompt_progress=progress)).encode()

    def _chunk(self, choice: ChunkChoice) -> bytes:
        return Event.of(ChatChunk(**self._head, choices=[choice])).encode()
