"""OpenAI's plain completions: prompts go on as they are, with echo and log-probabilities for those who measure.

In: the bytes of a body. Out: a response, whole or streamed, its choices prompt by prompt.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from minimax_m1.serve.answer import answer, outcomes
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.chat import usage_of
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.serve.logprobs import prompt_logprobs, spelled, text_logprobs
from minimax_m1.serve.question import Question, jobs
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Item, Job, Outcome, Text, Token
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.body import read
from minimax_m1.wire.completions import CompletionReply, CompletionRequest, TextChoice, TextLogprobs
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.sse import Event


async def complete_text(service: Service, body: bytes, *, priority: int = 0) -> Response:
    """Answers one request; `priority` is added to the request's own.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model, or the engine failed.
    """
    asked = read(CompletionRequest, body)
    check_model(asked.model, service.name)
    loaded = service.bridge.loaded
    made = await asyncio.to_thread(_jobs, loaded, asked, priority)
    head: dict[str, Any] = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    items = answer(service, made, id=head["id"], kind="completions")
    await anext(items)
    if asked.stream:
        return EventStream(_chunks(head, asked, loaded.tokenizer, len(made), items), ping=service.ping)
    ends = await outcomes(items)
    reply = await asyncio.to_thread(_reply, head, asked, loaded.tokenizer, made, ends)
    return Response(reply.model_dump_json(), media_type="application/json")


def _jobs(loaded: Loaded, asked: CompletionRequest, priority: int) -> list[Job]:
    sampling = asked.chosen()
    made: list[Job] = []
    for prompt in asked.prompts():
        question = Question(
            prompt=prompt,
            form=asked.form(),
            sampling=sampling,
            max_tokens=asked.max_tokens,
            param="prompt",
            n=asked.n or 1,
            priority=asked.priority + priority,
        )
        made += jobs(loaded, question)
    return made


def _reply(
    head: dict[str, Any],
    asked: CompletionRequest,
    tokenizer: MiniMaxM1Tokenizer,
    made: Sequence[Job],
    ends: Sequence[Outcome],
) -> CompletionReply:
    each = asked.n or 1
    groups = [ends[start : start + each] for start in range(0, len(ends), each)]
    choices = [
        _choice(asked, tokenizer, number * each + index, made[number * each].prompt, group[0], end)
        for number, group in enumerate(groups)
        for index, end in enumerate(group)
    ]
    return CompletionReply(**head, choices=choices, usage=usage_of(groups))


def _choice(
    asked: CompletionRequest,
    tokenizer: MiniMaxM1Tokenizer,
    index: int,
    prompt: Sequence[int],
    first: Outcome,
    end: Outcome,
) -> TextChoice:
    """One answer; the prompt's figures come with the `first` of its answers, and all share them."""
    before = _text(tokenizer, prompt) if asked.echo else ""
    told = None if asked.prompt_logprobs is None else first.prompt_logprobs
    return TextChoice(
        index=index,
        text=before + end.text,
        logprobs=_logprobs(asked, tokenizer, prompt, first, end, len(before)),
        finish_reason="length" if end.finish_reason in ("length", "repetition") else "stop",
        stop_reason=end.stop_string,
        token_ids=list(end.token_ids) if asked.return_token_ids else None,
        prompt_token_ids=[int(id) for id in prompt] if asked.return_token_ids else None,
        prompt_logprobs=None if told is None else prompt_logprobs(tokenizer, told),
    )


def _text(tokenizer: MiniMaxM1Tokenizer, ids: Sequence[int]) -> str:
    return b"".join(spelled(tokenizer, int(id)) for id in ids).decode("utf-8", "replace")


def _logprobs(
    asked: CompletionRequest,
    tokenizer: MiniMaxM1Tokenizer,
    prompt: Sequence[int],
    first: Outcome,
    end: Outcome,
    start: int,
) -> TextLogprobs | None:
    if asked.logprobs is None:
        return None
    own = text_logprobs(tokenizer, end.tokens, [token.id for token in end.tokens], asked.logprobs, start)
    if not asked.echo or first.prompt_logprobs is None:
        return own
    read = [
        Token(id=int(id), logprob=likely[0].logprob, top=likely) if likely else None
        for id, likely in zip(prompt, first.prompt_logprobs, strict=True)
    ]
    before = text_logprobs(tokenizer, read, [int(id) for id in prompt], asked.logprobs)
    return TextLogprobs(
        tokens=before.tokens + own.tokens,
        token_logprobs=before.token_logprobs + own.token_logprobs,
        top_logprobs=before.top_logprobs + own.top_logprobs,
        text_offset=before.text_offset + own.text_offset,
    )


async def _chunks(
    head: dict[str, Any],
    asked: CompletionRequest,
    tokenizer: MiniMaxM1Tokenizer,
    count: int,
    items: AsyncGenerator[tuple[int, Item], None],
) -> AsyncGenerator[bytes, None]:
    ends: dict[int, Outcome] = {}
    written = [0] * count
    async with aclosing(items):
        try:
            async for index, item in items:
                if isinstance(item, Text):
                    told = None
                    if asked.logprobs is not None:
                        ids = [token.id for token in item.tokens]
                        told = text_logprobs(tokenizer, item.tokens, ids, asked.logprobs, written[index])
                    written[index] += len(item.text)
                    choice = TextChoice(index=index, text=item.text, logprobs=told, finish_reason=None)
                elif isinstance(item, Outcome):
                    ends[index] = item
                    cut = item.finish_reason in ("length", "repetition")
                    choice = TextChoice(
                        index=index, text="", finish_reason="length" if cut else "stop", stop_reason=item.stop_string
                    )
                else:
                    continue
                yield Event.of(CompletionReply(**head, choices=[choice])).encode()
            if asked.stream_options is not None and asked.stream_options.include_usage:
                each = asked.n or 1
                groups = [[ends[start + i] for i in range(each)] for start in range(0, count, each)]
                yield Event.of(CompletionReply(**head, choices=[], usage=usage_of(groups))).encode()
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            yield Event.of(fault_of(error).reply).encode()
        yield Event(data="[DONE]").encode()
