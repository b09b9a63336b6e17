"""One request from prompt ids to told pieces: text out of tokens, thought and calls out of text.

In: `Job`s, which the two dialects (`native.py`, `chat.py`) make of their requests.
Out: `Progress`, `Text`, `Thought` and `Call` as they come, at last one `Outcome` a job.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from minimax_m1.engine.request import FinishReason, Guide, Request, SamplingParams
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.serve.bridge import Bridge
from minimax_m1.text.decoding import TextStream
from minimax_m1.text.reply import Piece as Parsed
from minimax_m1.text.reply import ReplyParser
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.errors import Fault

_CUT: dict[FinishReason, Literal["length", "repetition"]] = {
    FinishReason.LENGTH: "length",
    FinishReason.REPETITION: "repetition",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One answer to make. With `parallel_calls` False only the first tool call counts; lower `priority` goes first."""

    prompt: Sequence[int]
    params: SamplingParams
    tools: bool = False
    parallel_calls: bool = True
    priority: int = 0
    routing: bool = False
    routed_experts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Tokens of the prompt read so far, of how many."""

    processed: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """New text of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """New text of the thought before the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; `arguments` is JSON in a string."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The whole of one answer, and what it used."""

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    finish_reason: Literal["stop", "length", "repetition", "tool_calls"]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    trace: RoutingTrace | None


Piece = Progress | Text | Thought | Call
Item = Piece | Outcome


def room(prompt: int, asked: int | None, window: int | None, limit: int, *, asked_name: str, param: str) -> int:
    """Most tokens that may come out: what was asked for, less where the window leaves less.

    `prompt`, `asked`, `window` and `limit` (the server's) count tokens; `asked_name` and `param` are the
    fields of the request that `asked` and the prompt come from.

    Raises:
        RequestError: the window exceeds the limit, or `asked` the window.
        ContextLengthExceeded: the prompt leaves no room in the window.
    """
    if window is not None and window > limit:
        raise RequestError(f"context_window {window} exceeds the limit of {limit} tokens", param="context_window")
    most = limit if window is None else window
    if asked is not None and asked > most:
        raise RequestError(f"{asked_name} {asked} exceeds the context window of {most} tokens", param=asked_name)
    if prompt >= most:
        raise ContextLengthExceeded(
            f"the input has {prompt} tokens, which leaves no room for an answer in the context window of {most} tokens",
            param=param,
        )
    return min(most - prompt, most if asked is None else asked)


async def answer(bridge: Bridge, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Item], None]:
    """The items of all jobs as they come, each with the number of its job.

    The first item is the first job's `Progress` 0, and it comes once the engine has taken every job;
    so a refusal is raised before anything has to be sent. Closing the generator cancels what runs.

    Raises:
        RequestError: the engine refused a job.
        Fault: the engine failed, or gave a job up.
    """
    runs = [_run(bridge, job) for job in jobs]
    items: asyncio.Queue[tuple[int, Item | Exception | None]] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    try:
        for run in runs:
            await anext(run)
        yield 0, Progress(processed=0, total=len(jobs[0].prompt))
        tasks += [asyncio.create_task(_drain(index, run, items)) for index, run in enumerate(runs)]
        left = len(tasks)
        while left:
            index, item = await items.get()
            if item is None:
                left -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for run in runs:
            await run.aclose()


async def outcomes(items: AsyncGenerator[tuple[int, Item], None]) -> list[Outcome]:
    """Waits for the whole answers, in the order of their jobs."""
    async with aclosing(items):
        ends = {index: item async for index, item in items if isinstance(item, Outcome)}
    return [ends[index] for index in sorted(ends)]


async def _drain(
    index: int, run: AsyncGenerator[Item, None], items: asyncio.Queue[tuple[int, Item | Exception | None]]
) -> None:
    try:
        async for item in run:
            items.put_nowait((index, item))
    except Exception as error:  # carried to whoever reads the queue
        items.put_nowait((index, error))
    items.put_nowait((index, None))


async def _run(bridge: Bridge, job: Job) -> AsyncGenerator[Item, None]:
    tokenizer = bridge.loaded.tokenizer
    teller = _Teller(tokenizer, job)
    request = Request(
        id=uuid.uuid4().hex,
        prompt=job.prompt,
        params=job.params,
        stop_rule=_stop_rule(tokenizer, job.params.stop),
        guide=_guide(bridge, job.params),
        priority=job.priority,
        routing=job.routing,
        routed_experts=job.routed_experts,
    )
    async with bridge.events(request) as events:
        yield Progress(processed=0, total=len(job.prompt))
        async for event in events:
            if event.token_id is not None:
                for piece in teller.push(event.token_id):
                    yield piece
            elif event.finish is None:
                yield Progress(processed=event.prefilled_tokens, total=len(job.prompt))
            if event.finish is None:
                continue
            if event.finish is FinishReason.ABORT:
                raise Fault(500, event.error or "the request was cancelled", code="generation_failed")
            for piece in teller.finish():
                yield piece
            yield teller.outcome(event.finish, event.cached_tokens, event.routing)


def _guide(bridge: Bridge, params: SamplingParams) -> Guide | None:
    """Keeps the thought within its budget, where there is one."""
    if params.thinking_budget is None:
        return None
    return bridge.loaded.guides.guide(thinking_budget=params.thinking_budget)


def _stop_rule(tokenizer: MiniMaxM1Tokenizer, stop: str | Sequence[str]) -> Callable[[int], bool] | None:
    """Runs in the engine's thread, so it has a text stream of its own."""
    if not stop:
        return None
    stream = TextStream(tokenizer, stop=stop)

    def stopped(token_id: int) -> bool:
        stream.push(token_id)
        return stream.stopped

    return stopped


class _Teller:
    """Tokens of one answer -> its pieces, and at the end what they came to."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, job: Job) -> None:
        self._job = job
        self._stream = TextStream(tokenizer, stop=job.params.stop)
        self._parser = ReplyParser(tools=job.tools)
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[Call] = []
        self._tokens = 0
        self._thought_tokens = 0

    def push(self, token_id: int) -> list[Piece]:
        """What one more token makes safe to tell."""
        self._tokens += 1
        pieces = self._tell(self._parser.feed(self._stream.push(token_id)))
        self._thought_tokens += self._parser.thinking
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back."""
        return self._tell([*self._parser.feed(self._stream.finish()), *self._parser.finish()])

    def outcome(self, finish: FinishReason, cached_tokens: int, trace: RoutingTrace | None) -> Outcome:
        """The whole, after `finish`."""
        return Outcome(
            text="".join(self._text),
            reasoning="".join(self._thought),
            calls=tuple(self._calls),
            finish_reason=_CUT.get(finish, "tool_calls" if self._calls else "stop"),
            input_tokens=len(self._job.prompt),
            cached_tokens=cached_tokens,
            output_tokens=self._tokens,
            reasoning_tokens=self._thought_tokens,
            trace=trace,
        )

    def _tell(self, parsed: Sequence[Parsed]) -> list[Piece]:
        told: list[Piece] = []
        for piece in parsed:
            if piece.kind == "reasoning":
                self._thought.append(piece.text)
                told.append(Thought(text=piece.text))
            elif piece.kind == "content":
                self._text.append(piece.text)
                told.append(Text(text=piece.text))
            elif self._job.parallel_calls or not self._calls:
                call = Call(
                    index=len(self._calls),
                    id=f"call_{uuid.uuid4().hex[:24]}",
                    name=piece.name,
                    arguments=piece.arguments,
                )
                self._calls.append(call)
                told.append(call)
        return told
