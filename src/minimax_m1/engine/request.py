"""What crosses the engine's door: a request in, token events out. Ids only, no text, no torch.

In: `Request`: prompt ids, `SamplingParams`, and objects over ids that say more: a stop rule, a `Guide`, a `Past`.
Out: `TokenEvent`s, the last of which carries the finish reason, the usage and the routing trace.
`Engine` is the surface that the server and `LLM` drive; `engine.py` and `scripted.py` implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from minimax_m1.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from minimax_m1.engine.routing import RoutingTrace
    from minimax_m1.engine.snapshot import Snapshot


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # end-of-sentence, a stop id, the stop rule or the guide said so
    LENGTH = "length"  # max_tokens or the context window is full
    REPETITION = "repetition"  # `RepetitionStop` saw a loop
    ABORT = "abort"  # cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionStop:
    """Ends a reply that loops: the last `window` tokens each had a probability above `probability`.

    That alone is MiniMax-M1's rule (report, section 4: 3,000 tokens above 0.99). A small model is sure of itself in
    honest text too, so those tokens must also repeat with a period of at most `max_period`; None drops that condition.

    Raises:
        RequestError: a value is out of its range.
    """

    window: int = 3000
    probability: float = 0.99
    max_period: int | None = 64

    def __post_init__(self) -> None:
        _check("repetition_stop.window", self.window, self.window >= 2, "at least 2")
        _check("repetition_stop.probability", self.probability, 0 <= self.probability < 1, "at least 0 and below 1")
        if self.max_period is not None:
            good = 1 <= self.max_period <= self.window // 2
            _check("repetition_stop.max_period", self.max_period, good, "between 1 and half the window")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """The form a reply must have (vLLM's names); exactly one of the fields. The text floor makes a `Guide` of it.

    `json` is a schema, as a mapping or as text; `grammar` is Lark or GBNF text.

    Raises:
        RequestError: none or several fields are given.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool = False

    def __post_init__(self) -> None:
        values = (self.json, self.regex, self.choice, self.grammar, self.json_object or None)
        given = sum(value is not None for value in values)
        if given != 1:
            raise RequestError(
                f"structured_outputs takes exactly one of json, regex, choice, grammar and json_object, got {given}",
                param="structured_outputs",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens; names and defaults are vLLM's, the last three are ours.

    `temperature` 0 is greedy. `top_k` 0 or -1 is off. `seed` None draws from the system's entropy.
    `presence_penalty` and `frequency_penalty` look at the reply, `repetition_penalty` at the prompt too.
    `logit_bias` adds to the logits of ids. `logprobs` asks for so many of the likeliest tokens' log-probabilities
    beside the chosen one's, `prompt_logprobs` for those of the prompt; all are of the unchanged logits.
    `min_tokens` holds end-of-sentence and the stop ids back; a stop rule or guide is always obeyed.
    `max_tokens` 0 only reads the prompt. `n`, the `stop` strings, `structured_outputs` and `thinking_budget` are for
    the floor above, which makes requests, stop rules and guides of them; the engine does not read them.
    `thinking_budget`: most tokens of a thought, which is then closed so that the answer follows.
    `expert_threshold` in (0, 1]: per token keep the fewest experts whose renormalised gate weights sum to at
    least it; 1.0 is the published top-k.

    Raises:
        RequestError: a value is out of its range; `param` names the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    max_tokens: int = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputsParams | None = None
    thinking_budget: int | None = None
    repetition_stop: RepetitionStop | None = None
    expert_threshold: float = 1.0

    def __post_init__(self) -> None:
        _check("n", self.n, 1 <= self.n <= 128, "between 1 and 128")
        _check("temperature", self.temperature, 0 <= self.temperature <= 100, "between 0 and 100")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= -1, "at least -1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 and 1")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(name, value, -2 <= value <= 2, "between -2 and 2")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty <= 100, "above 0 and at most 100")
        for bias in (self.logit_bias or {}).values():
            _check("logit_bias", bias, -100 <= bias <= 100, "between -100 and 100 for each id")
        seed = 0 if self.seed is None else self.seed
        _check("seed", seed, -(2**63) <= seed < 2**64, "an integer of at most 64 bits")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if not all(stops):
            raise RequestError("stop holds an empty string; a stop string has at least 1 character", param="stop")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 0, "at least 0")
        _check("min_tokens", self.min_tokens, 0 <= self.min_tokens <= self.max_tokens, "between 0 and max_tokens")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _check(name, value or 0, 0 <= (value or 0) <= 20, "between 0 and 20")
        budget = 0 if self.thinking_budget is None else self.thinking_budget
        _check("thinking_budget", budget, budget >= 0, "at least 0")
        _check("expert_threshold", self.expert_threshold, 0 < self.expert_threshold <= 1, "above 0 and at most 1")


def _check(name: str, value: float, good: bool, limit: str) -> None:
    if not good:  # a comparison with NaN is false, so NaN is refused here too
        raise RequestError(f"{name} must be {limit}, got {value!r}", param=name)


class Guide(Protocol):
    """What a reply may be, over ids: a grammar, a budget for its thought. One object serves one request."""

    def forced(self) -> Sequence[int]:
        """The ids that must come next, in order; empty where there is a choice. The engine skips ahead over them."""
        ...

    def mask(self) -> NDArray[np.bool_] | None:
        """[V], True where an id may come next; None where any may."""
        ...

    def accept(self, token_id: int) -> bool:
        """Takes the next id, forced ids too; True ends the reply with it. Raises RequestError where it is lost."""
        ...


class Past(Protocol):
    """A prefix that was read before and lies outside the engine, as in a context on disk."""

    @property
    def ids(self) -> NDArray[np.int32]:
        """The tokens that were read, [n], n at least 1."""
        ...

    def load(self, put: Callable[[int, Sequence[Tensor]], None]) -> Sequence[Tensor]:
        """Gives the state after all of `ids`: one [H, D, D] a lightning layer.

        Calls `put(start, keys_values)` for each stretch of tokens in order: one [2, tokens, G, D] a softmax layer,
        keys and values of the tokens from `start` on. Raises CheckpointError where it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to continue.

    `stop_rule` is called with each new id; True ends the request. `guide` says which ids may come.
    `priority`: lower goes first. `past` holds what begins the prompt and need not be read again.
    `save` is called in the engine's thread with a `Snapshot` of all that was read since the one before (or since
    `past`), each time `save_every` tokens of the prompt have been read and at its end; if it raises, the request ends.
    """

    id: str
    prompt: Sequence[int] | NDArray[np.integer[Any]]
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_rule: Callable[[int], bool] | None = None
    guide: Guide | None = None
    priority: int = 0
    past: Past | None = None
    save: Callable[[Snapshot], None] | None = None
    save_every: int = 16_384
    routing: bool = False  # keep the routing trace and hand it over with the last event
    routed_experts: bool = False  # keep in it every token's experts too: layers x top_k x 2 bytes a token


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One id's log-probability under the unchanged logits, and its rank among all ids, 1 the likeliest."""

    token_id: int
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one request, or its end. `token_id` is None where only the end is told.

    `logprob` is None for an id that a guide forced and the model was not asked about. `top_logprobs` begins with the
    chosen id, then come the likeliest, best first; empty unless asked for. `prompt_logprobs`, with the first event
    after the prompt where asked for: the same for each prompt token, empty for the first.
    """

    request_id: str
    token_id: int | None
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: Sequence[tuple[TokenLogprob, ...]] | None = None
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that were not read again
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
