"""One request on its way: what it may use, how far it has been read, and which token ends it.

In: a `Request`, the engine's limits, and each new id. Out: its `TokenEvent`s. Both engines share it,
so that a scripted reply ends by the same rules as a real one. No torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.engine.request import FinishReason, Request, TokenEvent
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.errors import ContextLengthExceeded, RequestError

# A longer prompt with a routing report leaves out of the last layer what no logit needs: the work of that layer grows
# with the square of the prompt. The report tells each layer's tokens.
_ROUTED_IN_FULL = 16_384


class Sequence:
    """A request that has been accepted.

    Raises:
        RequestError: the prompt is empty, or no list of integers, or holds an id outside [0, vocab_size).
        ContextLengthExceeded: the prompt leaves no room for one new token.
    """

    __slots__ = ("last", "limit", "made", "prompt", "read", "request", "stop_ids", "trace")

    def __init__(
        self,
        request: Request,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_ids: Collection[int],
        trace: RoutingTrace | None,
    ) -> None:
        self.prompt = _ids(request.prompt, vocab_size)  # int64 [tokens]
        if len(self.prompt) >= max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(self.prompt)} tokens and the context window is {max_model_len} tokens, "
                "at least one of them for the reply",
                param="prompt",
            )
        stop_ids = frozenset(request.params.stop_token_ids)
        if bad := [token for token in stop_ids if not 0 <= token < vocab_size]:
            raise RequestError(f"stop_token_ids holds {bad[0]}, outside 0 to {vocab_size - 1}", param="stop_token_ids")
        self.request = request
        self.trace = trace
        self.stop_ids = stop_ids if request.params.ignore_eos else stop_ids | frozenset(eos_ids)
        self.limit = min(request.params.max_tokens, max_model_len - len(self.prompt))
        self.read = 0  # prompt tokens
        self.made = 0  # output tokens
        self.last = -1  # the newest output token, which the model has not read yet

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
        return self.stop_ids if self.made < self.request.params.min_tokens else frozenset()

    def take(self, most: int) -> list[int]:
        """The next prompt ids, at most `most`, counted as read."""
        ids: list[int] = self.prompt[self.read : self.read + most].tolist()
        self.read += len(ids)
        return ids

    def progress(self) -> TokenEvent:
        """Tells how much of the prompt has been read."""
        return TokenEvent(
            request_id=self.request.id,
            token_id=None,
            prompt_tokens=len(self.prompt),
            prefilled_tokens=self.read,
        )

    def accept(self, token: int, logprob: float, *, final: bool = False) -> TokenEvent:
        """Takes one new token and says whether it is the last; `final` says that nothing follows it."""
        self.made += 1
        self.last = token
        stopped = self.request.stop_rule is not None and self.request.stop_rule(token)
        finish = None
        if final or stopped or (token in self.stop_ids and self.made > self.request.params.min_tokens):
            finish = FinishReason.STOP
        elif self.made >= self.limit:
            finish = FinishReason.LENGTH
        return TokenEvent(
            request_id=self.request.id,
            token_id=token,
            logprob=logprob,
            finish=finish,
            prompt_tokens=len(self.prompt),
            prefilled_tokens=self.read,
            routing=None if finish is None else self.trace,
        )

    def end(self, finish: FinishReason, error: str | None = None) -> TokenEvent:
        """Ends without a token: cancelled, failed, or out of script."""
        return TokenEvent(
            request_id=self.request.id,
            token_id=None,
            finish=finish,
            prompt_tokens=len(self.prompt),
            prefilled_tokens=self.read,
            routing=self.trace,
            error=error,
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
