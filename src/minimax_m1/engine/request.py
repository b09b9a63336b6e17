"""What crosses the engine's door: a request in, token events out. Ids only, no text, no torch.

In: `Request` (prompt ids, `SamplingParams`, an optional stop rule over ids).
Out: `TokenEvent`s, the last of which carries the finish reason, the usage and the routing trace.
`Engine` is the surface that the server and `LLM` drive; `engine.py` and `scripted.py` implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from minimax_m1.errors import RequestError

if TYPE_CHECKING:
    from minimax_m1.engine.routing import RoutingTrace


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # end-of-sentence, a stop id, or the stop rule said so
    LENGTH = "length"  # max_tokens or the context window is full
    ABORT = "abort"  # cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens; names and defaults are vLLM's, `expert_threshold` is ours.

    `temperature` 0 is greedy. `top_k` 0 or -1 is off. `seed` None draws from the system's entropy.
    `min_tokens` holds end-of-sentence and the stop ids back; a stop rule is always obeyed.
    `stop` strings are for the text floor, which turns them into a stop rule; the engine reads
    `stop_token_ids` only. `expert_threshold` in (0, 1]: per token keep the fewest experts whose
    renormalised gate weights sum to at least it; 1.0 is the published top-k.

    Raises:
        RequestError: a value is out of its range; `param` names the field.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    max_tokens: int = 16
    min_tokens: int = 0
    expert_threshold: float = 1.0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature <= 100, "between 0 and 100")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= -1, "at least -1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 and 1")
        seed = 0 if self.seed is None else self.seed
        _check("seed", seed, -(2**63) <= seed < 2**64, "an integer of at most 64 bits")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if not all(stops):
            raise RequestError("stop holds an empty string; a stop string has at least 1 character", param="stop")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("min_tokens", self.min_tokens, 0 <= self.min_tokens <= self.max_tokens, "between 0 and max_tokens")
        _check("expert_threshold", self.expert_threshold, 0 < self.expert_threshold <= 1, "above 0 and at most 1")


def _check(name: str, value: float, good: bool, limit: str) -> None:
    if not good:  # a comparison with NaN is false, so NaN is refused here too
        raise RequestError(f"{name} must be {limit}, got {value!r}", param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to continue. `stop_rule` is called with each new id; True ends the request."""

    id: str
    prompt: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_rule: Callable[[int], bool] | None = None
    routing: bool = False  # keep the routing trace and hand it over with the last event
    routed_experts: bool = False  # keep in it every token's experts too: layers x top_k x 2 bytes a token


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one request, or its end. `token_id` is None where only the end is told."""

    request_id: str
    token_id: int | None
    logprob: float = 0.0
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0  # prompt tokens read so far; events with token_id None and no finish are progress
    routing: RoutingTrace | None = None
    error: str | None = None  # with ABORT: one sentence, where the engine and not the caller gave up


class Engine(Protocol):
    """Submit, cancel, step: everything that runs tokens looks like this from outside.

    One thread calls an engine. Each submitted request has exactly one event with `finish`, its last.
    """

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        ...

    @property
    def busy(self) -> bool:
        """True while any request waits or runs, or an event waits for `step` to tell it."""
        ...

    def submit(self, request: Request) -> None:
        """Queues a request; raises RequestError where it can never be served."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a request at once and frees what it held; the next step tells ABORT. An unknown id is ignored."""
        ...

    def step(self) -> list[TokenEvent]:
        """Runs one slice of work and returns what came out of it, perhaps nothing."""
        ...
