"""`Job`: one reply under way, between the engine's ids and the caller's text.

In: a `Request`, then its events as the engine makes them. Out: with each event the text that it makes safe to show;
at the end a `CompletionOutput`, and of all replies to one prompt a `RequestOutput`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from minimax_m1.engine.request import Request, TokenEvent, TokenLogprob
from minimax_m1.errors import TokenizerError
from minimax_m1.llm.output import CompletionOutput, Logprob, RequestOutput
from minimax_m1.text.decoding import TextStream
from minimax_m1.text.reply import parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


class Job:
    """One sequence. `request` is the given one with the stop rule that its stop strings need.

    `log` is the caller's to fill with what it wants in `output`: each event, with its text.
    """

    __slots__ = ("_pieces", "_text", "_tokenizer", "index", "log", "prompt", "request")

    def __init__(
        self, request: Request, tokenizer: MiniMaxM1Tokenizer, *, prompt: str | None = None, index: int = 0
    ) -> None:
        self.prompt = prompt
        self.index = index
        self.request = replace(request, stop_rule=self._stop_rule)
        self.log: list[tuple[str, TokenEvent]] = []
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, stop=request.params.stop)
        self._pieces: deque[str] = deque()  # what new ids said, until their events come

    def take(self, event: TokenEvent) -> str:
        """The text that this event makes safe to show; events come in the engine's order."""
        piece = self._pieces.popleft() if event.token_id is not None else ""
        return piece if event.finish is None else piece + self._text.finish()

    def output(self) -> CompletionOutput:
        """The reply, after its last event."""
        last = self.log[-1][1]
        assert last.finish is not None
        made = [event for _, event in self.log if event.token_id is not None]
        ids = [event.token_id for event in made if event.token_id is not None]
        text = "".join(piece for piece, _ in self.log)
        parsed = parse_reply(text)
        params = self.request.params
        asked = last.token_id if last.token_id in params.stop_token_ids else None
        told = params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=ids,
            logprobs=[self._logprobs(event) for event in made] if told else None,
            cumulative_logprob=sum(event.logprob or 0.0 for event in made) if told else None,
            finish_reason=last.finish.value,
            stop_reason=asked if self._text.stop_string is None else self._text.stop_string,
            error=last.error,
            reasoning=parsed.reasoning,
            content=parsed.content,
            tool_calls=parsed.tool_calls,
            routing=last.routing,
        )

    def prompt_logprobs(self) -> list[dict[int, Logprob] | None] | None:
        """One for each token of the prompt, None for the first; None where they were not asked for."""
        told = next((event.prompt_logprobs for _, event in self.log if event.prompt_logprobs is not None), None)
        return None if told is None else [self._named(each) or None for each in told]

    def _stop_rule(self, token_id: int) -> bool:
        self._pieces.append(self._text.push(token_id))
        return self._text.stopped

    def _logprobs(self, event: TokenEvent) -> dict[int, Logprob]:
        if event.top_logprobs:
            return self._named(event.top_logprobs)
        assert event.token_id is not None
        return {event.token_id: Logprob(logprob=event.logprob or 0.0, decoded_token=self._word(event.token_id))}

    def _named(self, logprobs: Sequence[TokenLogprob]) -> dict[int, Logprob]:
        return {
            each.token_id: Logprob(logprob=each.logprob, rank=each.rank, decoded_token=self._word(each.token_id))
            for each in logprobs
        }

    def _word(self, token_id: int) -> str:
        try:
            return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        except TokenizerError:
            return "\ufffd"  # an id of a padded vocabulary, as in `TextStream`


def request_output(jobs: Sequence[Job]) -> RequestOutput:
    """All replies to one prompt, in the order of their index."""
    first = jobs[0]
    return RequestOutput(
        request_id=first.request.id,
        prompt=first.prompt,
        prompt_token_ids=list(first.request.prompt),
        prompt_logprobs=first.prompt_logprobs(),
        outputs=[job.output() for job in jobs],
        cached_tokens=first.log[-1][1].cached_tokens,
    )
