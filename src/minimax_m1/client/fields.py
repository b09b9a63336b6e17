"""The fields that a caller may give to each method, for editors and type checkers.

The wire's models say what each means and what it may be, and refuse what it may not; the names here are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from minimax_m1.wire.messages import Function, Message, Tool
from minimax_m1.wire.openai import MessageOut

Turn: TypeAlias = Mapping[str, Any] | Message | MessageOut
ToolLike: TypeAlias = Mapping[str, Any] | Tool | Function


class AnswerFields(TypedDict, total=False):
    """`wire.sampling.Sampling` and `wire.openai.Formed`: how to choose tokens, and what the answer must be."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    min_tokens: int | None
    thinking_budget: int | None
    expert_threshold: float | None
    priority: int | None
    response_format: Mapping[str, Any] | None
    structured_outputs: Mapping[str, Any] | None


class AskFields(AnswerFields, total=False):
    """`wire.contexts.AskContext`, less the question."""

    max_output_tokens: int | None
    context_window: int | None
    logprobs: int | None
    routing: bool | None


class TalkFields(AnswerFields, total=False):
    """What `GenerateFields` and `ChatFields` share."""

    model: str | None
    context_id: str | None
    tools: Sequence[ToolLike] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None


class GenerateFields(TalkFields, total=False):
    """`wire.native.GenerateRequest`."""

    input: str | None
    messages: Sequence[Turn] | None
    max_output_tokens: int | None
    context_window: int | None
    logprobs: int | None
    routing: bool | None
    routed_experts: bool | None


class ChatFields(TalkFields, total=False):
    """`wire.openai.ChatRequest`, less the messages."""

    max_tokens: int | None
    max_completion_tokens: int | None
    n: int | None
    logprobs: bool | None
    top_logprobs: int | None
    prompt_logprobs: int | None
    reasoning_effort: str | None
    thinking_token_budget: int | None
    include_reasoning: bool | None
    return_token_ids: bool | None
    return_progress: bool | None
    return_routed_experts: bool | None
    user: str | None
    metadata: Mapping[str, str] | None


class ReadFields(TypedDict, total=False):
    """`wire.contexts.ExtendContext`."""

    text: str | None
    texts: Mapping[str, str] | None
    messages: Sequence[Turn] | None
    file_id: str | None
    save_every: int | None


class CreateFields(ReadFields, total=False):
    """`wire.contexts.CreateContext`, less the name."""

    model: str | None


class TokenizeFields(TypedDict, total=False):
    """`wire.words.TokenizeRequest`, less the prompt."""

    model: str | None
    messages: Sequence[Turn] | None
    tools: Sequence[ToolLike] | None
    add_generation_prompt: bool | None
    return_token_strs: bool | None
