"""One request on its way: what it may use, how far it has been read, and which token ends it.

In: a `Request`, the engine's limits, and each new id. Out: its `TokenEvent`s. Both engines share it,
so that a scripted reply ends by the same rules as a real one. No torch.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Ids
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.engine.repetition import Repetition
from minimax_m1.engine.request import FinishReason, Request, TokenEvent, TokenLogprob
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.errors import ContextLengthExceeded, RequestError

# A longer prompt with a routing report leaves out of the last layer what no logit needs, as it does without a report:
# telemetry must cost next to nothing. The report tells each layer's tokens.
_ROUTED_IN_FULL = 256


class Sequence:
    """A request that has been accepted.

    Raises:
        RequestError: the prompt is empty, or no list of integers, or holds an id outside [0, vocab_size); a stop id
            or a biased id is outside too.
        ContextLengthExceeded: the prompt leaves no room for one new token.
    """

    __slots__ = ("cached", "limit", "made", "prompt", "read", "repetition", "request", "stop_ids", "trace")

    def __init__(
        self,
        request: Request,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_ids: Collection[int],
        trace: RoutingTrace | None,
    ) -> None:
        params = request.params
        self.prompt = _ids(request.prompt, vocab_size)  # int64 [tokens]
        if len(self.prompt) + min(params.max_tokens, 1) > max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(self.prompt)} tokens and the context window is {max_model_len} tokens, "
                "at least one of them for the reply",
                param="prompt",
            )
        stop_ids = frozenset(params.stop_token_ids)
        if bad := [token for token in stop_ids if not 0 <= token < vocab_size]:
            raise RequestError(f"stop_token_ids holds {bad[0]}, outside 0 to {vocab_size - 1}", param="stop_token_ids")
        self.request = request
        self.trace = trace
        self.stop_ids = stop_ids if params.ignore_eos else stop_ids | frozenset(eos_ids)
        self.limit = min(params.max_tokens, max_model_len - len(self.prompt))
        self.repetition = None if params.repetition_stop is None else Repetition(params.repetition_stop)
        self.read = 0  # prompt tokens
        self.cached = 0  # those of them that were not read again
        self.made: list[int] = []  # the reply

    @property
    def prompt_left(self) -> int:
        """Prompt tokens still to read."""
        return len(self.prompt) - self.read

    @property
    def routes_all(self) -> bool:
        """Whether the last layer must route every token, and not only those that make a logit."""
        if self.trace is None:
            return False
        return self.request.routed_experts or len(self.prompt) <= _ROUTED_IN_FULL

    @property
    def banned(self) -> frozenset[int]:
        """Ids that may not come next: those that would end the text before `min_tokens`."""
        return self.stop_ids if len(self.made) < self.request.params.min_tokens else frozenset()

    def take(self, most: int) -> list[int]:
        """The next prompt ids, at most `most`, counted as read."""
        ids: list[int] = self.prompt[self.read : self.read + most].tolist()
        self.read += len(ids)
        return ids

    def progress(self) -> TokenEvent:
        """Tells how much of the prompt has been read."""
        return self._event(None)

    def accept(
        self,
        token: int,
        logprob: float | None,
        *,
        top: tuple[TokenLogprob, ...] = (),
        prompt_logprobs: Ids[tuple[TokenLogprob, ...]] | None = None,
        final: bool = False,
    ) -> TokenEvent:
        """Takes one new token and says whether it is the last; `final` says that nothing follows it."""
        self.made.append(token)
        stopped = self.request.stop_rule is not None and self.request.stop_rule(token)
        done = self.request.guide is not None and self.request.guide.accept(token)
        loops = self.repetition is not None and self.repetition.push(token, logprob)
        finish = None
        held_back = len(self.made) <= self.request.params.min_tokens
        if final or stopped or done or (token in self.stop_ids and not held_back):
            finish = FinishReason.STOP
        elif len(self.made) >= self.limit:
            finish = FinishReason.LENGTH
        elif loops:
            finish = FinishReason.REPETITION
        return self._event(finish, token, logprob=logprob, top_logprobs=top, prompt_logprobs=prompt_logprobs)

    def end(self, finish: FinishReason, error: str | None = None, **more: Any) -> TokenEvent:
        """Ends without a token: cancelled, failed, out of script, or only read; `more` are fields of the event."""
        return self._event(finish, error=error, **more)

    def _event(self, finish: FinishReason | None, token: int | None = None, **more: Any) -> TokenEvent:
        return TokenEvent(
            request_id=self.request.id,
            token_id=token,
            finish=finish,
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
            prefilled_tokens=self.read,
            routing=None if finish is None else self.trace,
            **more,
        )


def _ids(prompt: Any, vocab_size: int) -> NDArray[np.int64]:
    if len(prompt) == 0:
        raise RequestError("the prompt is empty; it needs at least 1 token", param="prompt")
    try:
        ids = np.asarray(prompt)
    except (ValueError, OverflowError):
        ids = np.asarray(None)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise RequestError("the prompt must be one flat list of integer token ids", param="prompt")
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        place = int(outside.argmax())
        raise RequestError(
            f"prompt token {place} has the id {ids[place]}, outside 0 to {vocab_size - 1}", param="prompt"
        )
    return ids.astype(np.int64)
