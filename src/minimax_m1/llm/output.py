"""What an `LLM` gives back: vLLM's names and shapes, and beside them our own.

`RequestOutput`: one prompt. `CompletionOutput`: one of its replies. `Logprob`: one id, had it come there.
"""

from __future__ import annotations

from dataclasses import dataclass

from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.text.reply import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """Log-probability of a token under the model's unchanged logits, its rank (1 the likeliest) and its text.

    An id that a guide forced has 0.0 and no rank: nothing else could come, and the model was not asked.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One reply. `text` is all of it as written, up to a stop string.

    Beside it the same text taken apart: `reasoning`, what stood in `<think>`; `content`, the answer; `tool_calls`.
    `token_ids` holds every id made, the one that ended the reply too. `logprobs`, where asked for, holds one
    {id: Logprob} for each, the chosen id first, and `cumulative_logprob` the sum of the chosen ones.
    `finish_reason` is "stop", "length" or "repetition"; or "abort" where the engine gave this reply up, and then
    `error` says why in one sentence. `stop_reason` is the stop string or the asked-for stop id that ended it, else
    None. `routing` is None unless asked for.
    """

    index: int = 0
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str
    stop_reason: str | int | None = None
    error: str | None = None
    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    routing: RoutingTrace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """One prompt and its `n` replies; `prompt` is None where ids came in.

    `prompt_logprobs`, where asked for, holds None for the first token, then {id: Logprob} for each.
    `cached_tokens` counts the prompt's tokens that the first reply did not read again.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    outputs: list[CompletionOutput]
    finished: bool = True
    cached_tokens: int = 0
