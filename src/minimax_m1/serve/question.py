"""`Question`: what is asked, in whatever dialect it came; it becomes the jobs that answer it.

In: messages or a prompt, tools, a form for the answer, sampling settings, limits. Out: `Job`s with prompt ids,
complete sampling parameters and guides. Encoding a long document takes a while: call `jobs` off the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from minimax_m1.engine.context import Context
from minimax_m1.engine.request import Guide, SamplingParams, StructuredOutputsParams
from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.teller import Job
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.document import continued

EFFORTS = {"none": 0.0, "minimal": 1 / 32, "low": 1 / 8, "medium": 1 / 2, "high": 1.0, "xhigh": 1.0, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, for `n` answers.

    `messages` go through the chat template, behind a `context` that was read before if there is one; a `prompt`,
    text or ids, is taken as it is, and its answer is not taken apart. `tools` are in OpenAI's wrapping; `tool_choice`
    is "auto", "none", "required" or a tool's name. `form` is what the answer must be, as fields of
    `StructuredOutputsParams`. `sampling` holds the fields of `SamplingParams` that the client set; where they say
    nothing of a thinking budget, `effort` does. `max_tokens` None is what the window leaves, or less where the model's
    own settings say less. `max_tokens_name` and `param` are the client's names of that field and of the prompt's, for
    errors.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | Sequence[int] | None = None
    context: Context | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    form: Mapping[str, Any] | None = None
    effort: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    max_tokens_name: str = "max_tokens"
    param: str = "messages"
    context_window: int | None = None
    n: int = 1
    priority: int = 0
    routed_experts: bool = False


def jobs(loaded: Loaded, question: Question) -> list[Job]:
    """The jobs of its `n` answers.

    Raises:
        RequestError: a message, tool, form or setting cannot be used.
        ContextLengthExceeded: the prompt leaves no room for an answer.
    """
    tools = [] if question.tool_choice == "none" else list(question.tools)
    _check_length(loaded, question)
    prompt = _prompt(loaded, question, tools)
    limit = loaded.engine.max_model_len
    most = room(
        len(prompt),
        question.max_tokens,
        question.context_window,
        limit,
        asked_name=question.max_tokens_name,
        param=question.param,
    )
    raw = question.prompt is not None
    own = loaded.defaults
    if question.max_tokens is None:
        most = min(most, own.max_tokens)
    if raw:  # a prompt that the caller wrote may stand anywhere in a thought
        own = replace(own, thinking_budget=None)
    sampling = dict(question.sampling)
    if "thinking_budget" not in sampling and (budget := effort_budget(loaded, question.effort)) is not None:
        sampling["thinking_budget"] = budget
    params = replace(own, max_tokens=most, n=1, **sampling)
    made = []
    for index in range(question.n):
        guide, guided = _guide(loaded, question, params, tools)
        each = params if index == 0 else replace(params, seed=_nth(params.seed, index), prompt_logprobs=None)
        made.append(
            Job(
                prompt=prompt,
                params=each,
                parse=not raw,
                tools=bool(tools),
                guided=guided,
                parallel_calls=question.parallel_tool_calls,
                guide=guide,
                past=question.context,
                context=None if question.context is None else question.context.folder.name,
                priority=question.priority,
                routed_experts=question.routed_experts,
            )
        )
    return made


def room(prompt: int, asked: int | None, window: int | None, limit: int, *, asked_name: str, param: str) -> int:
    """Most tokens that may come out: what was asked for, less where the window leaves less.

    `prompt`, `asked`, `window` and `limit` (the server's) count tokens; `asked_name` and `param` are the
    fields of the request that `asked` and the prompt come from. 0 may be asked for: then the prompt is only read.

    Raises:
        RequestError: the window exceeds the limit, or `asked` the window.
        ContextLengthExceeded: the prompt leaves no room in the window.
    """
    if window is not None and window > limit:
        raise RequestError(f"context_window {window} exceeds the limit of {limit} tokens", param="context_window")
    most = limit if window is None else window
    if asked is not None and asked > most:
        raise RequestError(f"{asked_name} {asked} exceeds the context window of {most} tokens", param=asked_name)
    if prompt + (asked != 0) > most:
        raise ContextLengthExceeded(
            f"the input has {prompt} tokens, which leaves no room for an answer in the context window of {most} tokens",
            param=param,
        )
    return min(most - prompt, most if asked is None else asked)


def effort_budget(loaded: Loaded, effort: str | None) -> int | None:
    """The thinking budget that a `reasoning_effort` means, in tokens; None leaves the model's own.

    A share of the longest thought that the model's settings allow, or of half the context window where they say none:
    none 0, minimal 1/32, low 1/8, medium 1/2, high and above all of it.

    Raises:
        RequestError: there is no such effort.
    """
    if effort is None:
        return None
    if effort not in EFFORTS:
        raise RequestError(
            f"reasoning_effort must be one of {', '.join(EFFORTS)}, got {effort!r}", param="reasoning_effort"
        )
    longest = loaded.defaults.thinking_budget
    if longest is None:
        longest = loaded.engine.max_model_len // 2
    return int(EFFORTS[effort] * longest)


def _check_length(loaded: Loaded, question: Question) -> None:
    """Refuses what cannot fit however well its text is encoded, before it is: that takes memory and time."""
    limit, texts = loaded.engine.max_model_len, [question.prompt] if isinstance(question.prompt, str) else []
    for message in question.messages:
        content = message.get("content") or ""
        texts += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    characters = sum(map(len, texts))
    if characters > limit * loaded.tokenizer.longest:
        raise ContextLengthExceeded(
            f"the input has {characters} characters, and the context window of {limit} tokens holds at most "
            f"{limit * loaded.tokenizer.longest}",
            param=question.param,
        )


def _prompt(loaded: Loaded, question: Question, tools: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    if question.prompt is not None:
        ids = question.prompt
        return loaded.tokenizer.encode(ids) if isinstance(ids, str) else ids
    if question.context is not None:
        if tools:
            raise RequestError("a request on a context cannot bring tools: the template puts them first", param="tools")
        record = question.context.manifest
        return continued(loaded.tokenizer, record.meta, question.context.ids, question.messages)
    return encode_chat(loaded.tokenizer, question.messages, tools or None, add_generation_prompt=True)


def _guide(
    loaded: Loaded, question: Question, params: SamplingParams, tools: Sequence[Mapping[str, Any]]
) -> tuple[Guide | None, bool]:
    """What keeps one answer to its form, calls and budget; and whether a block of calls can hold nothing but calls.

    Calls are held to their schemas wherever these can be followed. One that cannot be is refused where the client
    counts on it (a forced call, `strict`, or a form beside it); where it does not, calls are free, as they are
    everywhere else.
    """
    form = None if question.form is None else StructuredOutputsParams(**question.form)
    asked: dict[str, Any] = {} if form is None else {each.name: getattr(form, each.name) for each in fields(form)}
    asked |= {
        "tools": tools or None,
        "tool_choice": question.tool_choice,
        "parallel_tool_calls": question.parallel_tool_calls,
        "thinking_budget": params.thinking_budget,
    }
    strict = any(tool["function"].get("strict") for tool in tools)
    try:
        return loaded.guides.guide(**asked, strict_auto=True), bool(tools)
    except RequestError as error:
        if strict or form is not None or question.tool_choice != "auto" or error.param != "tools":
            raise
    return loaded.guides.guide(**asked), False


def _nth(seed: int | None, index: int) -> int | None:
    """The seed of the answer `index`; the first has the one that was asked for, so n does not change it."""
    return None if seed is None else (seed + index) % 2**63
