"""Tokens of one answer become its pieces: text out of ids, thought and calls out of text.

In: the engine's events of one `Job`. Out: `Thought`, `Text`, `Call` and `CallDelta` as soon as they are certain, at
last the `Outcome`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from minimax_m1.engine.request import FinishReason, Guide, Past, SamplingParams, TokenEvent, TokenLogprob
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.text.decoding import TextStream
from minimax_m1.text.reply import Piece as Parsed
from minimax_m1.text.reply import ReplyParser
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

_CUT: dict[FinishReason, Literal["length", "repetition"]] = {
    FinishReason.LENGTH: "length",
    FinishReason.REPETITION: "repetition",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One answer to make.

    `parse` False leaves the text as it is written, thought and tags included. `guided` says that a block of calls
    can hold nothing else, so that a call is told while it is written. With `parallel_calls` False only the first
    tool call counts. Lower `priority` goes first. `past` holds what begins the prompt and need
    not be read; `context` is its id.
    """

    prompt: Sequence[int]
    params: SamplingParams
    parse: bool = True
    tools: bool = False
    guided: bool = False
    parallel_calls: bool = True
    guide: Guide | None = None
    past: Past | None = None
    context: str | None = None
    priority: int = 0
    routed_experts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Tokens of the prompt read so far, of how many; `cached` of them did not have to be read."""

    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token behind a text: its log-probability and the likeliest ones, the chosen one first.

    `logprob` is None for an id that a guide forced: the model was not asked about it.
    """

    id: int
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """New text of the answer, and the tokens that came with it where log-probabilities were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """New text of the thought before the answer; tokens as in `Text`."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; `arguments` is JSON in a string, empty where `CallDelta`s bring it."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """More of the arguments of the call of this index."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The whole of one answer, and what it used.

    `stop_string` is the one that ended it. `token_ids` holds every id made. `tokens` are those behind the text and
    `prompt_logprobs` those of the prompt, where log-probabilities were asked for.
    """

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    finish_reason: Literal["stop", "length", "repetition", "tool_calls"]
    stop_string: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    token_ids: tuple[int, ...]
    tokens: tuple[Token, ...]
    prompt_logprobs: Sequence[tuple[TokenLogprob, ...]] | None
    trace: RoutingTrace | None


Piece = Text | Thought | Call | CallDelta
Item = Progress | Piece | Outcome


def stop_rule(tokenizer: MiniMaxM1Tokenizer, stop: str | Sequence[str]) -> Callable[[int], bool] | None:
    """Whether a reply ends with this id, for stop strings; it has a text of its own, in the engine's thread."""
    if not stop:
        return None
    stream = TextStream(tokenizer, stop=stop)

    def stopped(token_id: int) -> bool:
        stream.push(token_id)
        return stream.stopped

    return stopped


class Teller:
    """Takes the events of one answer in order."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, job: Job) -> None:
        self._tokenizer = tokenizer
        self._job = job
        self._stream = TextStream(tokenizer, stop=job.params.stop)
        self._parser = ReplyParser(tools=job.tools, guided=job.guided) if job.parse else None
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[Call] = []
        self._ids: list[int] = []
        self._thought_count = 0
        self._tokens: list[Token] = []
        self._untold: list[Token] = []  # not behind any told text yet
        self._prompt_logprobs: Sequence[tuple[TokenLogprob, ...]] | None = None

    def push(self, event: TokenEvent) -> list[Piece]:
        """What one more event makes safe to tell; with the last one, all that was held back."""
        pieces: list[Piece] = []
        if event.prompt_logprobs is not None:
            self._prompt_logprobs = event.prompt_logprobs
        if event.token_id is not None:
            self._note(event, event.token_id)
            pieces += self._tell(self._parse(self._stream.push(event.token_id)))
            self._thought_count += self._parser is not None and self._parser.thinking
        if event.finish is not None:
            rest = self._parse(self._stream.finish())
            pieces += self._tell(rest if self._parser is None else [*rest, *self._parser.finish()])
            if self._untold:
                pieces.append(Text(text="", tokens=self._take_tokens()))
        return pieces

    def outcome(self, finish: FinishReason, cached_tokens: int, trace: RoutingTrace | None) -> Outcome:
        """The whole, after the last event."""
        return Outcome(
            text="".join(self._text),
            reasoning="".join(self._thought),
            calls=tuple(self._calls),
            finish_reason=_CUT.get(finish, "tool_calls" if self._calls else "stop"),
            stop_string=self._stream.stop_string,
            input_tokens=len(self._job.prompt),
            cached_tokens=cached_tokens,
            output_tokens=len(self._ids),
            reasoning_tokens=self._thought_count,
            token_ids=tuple(self._ids),
            tokens=tuple(self._tokens),
            prompt_logprobs=self._prompt_logprobs,
            trace=trace,
        )

    def _note(self, event: TokenEvent, id: int) -> None:
        self._ids.append(id)
        if self._job.params.logprobs is None:
            return
        # End-of-sentence is no part of a chat's text; plain completions tell it, for those who count tokens.
        ends = self._parser is not None and event.finish is FinishReason.STOP and not self._shown(id)
        if not ends:
            token = Token(id=id, logprob=event.logprob, top=event.top_logprobs)
            self._tokens.append(token)
            self._untold.append(token)

    def _shown(self, id: int) -> bool:
        return id < self._tokenizer.vocab_size and bool(self._tokenizer.token_bytes(id, skip_special_tokens=True))

    def _take_tokens(self) -> tuple[Token, ...]:
        tokens, self._untold = tuple(self._untold), []
        return tokens

    def _parse(self, text: str) -> list[Parsed]:
        if self._parser is not None:
            return self._parser.feed(text)
        return [Parsed(kind="content", text=text)] if text else []

    def _tell(self, parsed: Sequence[Parsed]) -> list[Piece]:
        told: list[Piece] = []
        for piece in parsed:
            match piece.kind:
                case "reasoning":
                    self._thought.append(piece.text)
                    told.append(Thought(text=piece.text, tokens=self._take_tokens()))
                case "content":
                    self._text.append(piece.text)
                    told.append(Text(text=piece.text, tokens=self._take_tokens()))
                case "tool_call" if self._job.parallel_calls or not self._calls:
                    call = Call(
                        index=len(self._calls),
                        id=f"call_{uuid.uuid4().hex[:24]}",
                        name=piece.name,
                        arguments=piece.arguments,
                    )
                    self._calls.append(call)
                    told.append(call)
                case "arguments" if piece.index < len(self._calls):
                    call = self._calls[piece.index]
                    self._calls[piece.index] = replace(call, arguments=call.arguments + piece.text)
                    told.append(CallDelta(index=piece.index, arguments=piece.text))
        return told
