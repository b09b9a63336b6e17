"""One example of a task: a whole conversation with its reference replies, or one raw text.

In: nothing but plain values. Out: `Example`, `Reply`, the record `Family`, the prompt before a graded turn,
the one comparison that all verifiers share, and the split an example belongs to.
Conversations have the chat format's plain dictionaries; no tokens, no torch, no templates here.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Message = dict[str, Any]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation whose assistant messages are the reference, or a raw text without any message.

    `tools` are bare definitions {name, description, parameters}. `turns` are the indices in `messages`
    of the assistant messages that are graded. `raw` is set for plain documents; messages and turns are then empty.
    """

    family: str
    difficulty: int  # 1 to 10
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    turns: tuple[int, ...] = ()
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model answered in one turn; each tool call is (name, arguments as JSON text)."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of task. `sample(rng, difficulty)` draws an example; `verify(example, turn, reply)` grades a reply.

    `at_length(rng, difficulty, length)`, where a family has it, draws one of about so many tokens.
    """

    name: str
    sample: Callable[[random.Random, int], Example]
    verify: Callable[[Example, int, Reply], bool]
    at_length: Callable[[random.Random, int, int], Example] | None = None


def user(content: str) -> Message:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: str, reasoning: str = "") -> Message:
    """An assistant message; without a thought it has no `reasoning_content`."""
    thought = {"reasoning_content": reasoning} if reasoning else {}
    return {"role": "assistant", **thought, "content": content}


def with_system(example: Example, text: str) -> Example:
    """The same conversation behind a system message; the graded turns move by one."""
    messages = ({"role": "system", "content": text}, *example.messages)
    return replace(example, messages=messages, turns=tuple(turn + 1 for turn in example.turns))


def prompt_of(example: Example, turn: int) -> tuple[Message, ...]:
    """The messages before the assistant message at index `turn`."""
    assert turn in example.turns, f"turn {turn} of {example.turns} is not graded"
    return example.messages[:turn]


def reference_of(example: Example, turn: int) -> Reply:
    """The reference reply of a graded turn."""
    assert turn in example.turns, f"turn {turn} of {example.turns} is not graded"
    message = example.messages[turn]
    calls = (call["function"] for call in message.get("tool_calls", ()))
    return Reply(
        reasoning=message.get("reasoning_content", ""),
        content=message["content"],
        tool_calls=tuple((call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in calls),
    )


def matches(example: Example, turn: int, reply: Reply) -> bool:
    """True where the reply says what the reference says: the same calls, or else the same stripped content.

    The thought is free. Arguments are compared as JSON values, in any order of keys; true is not 1, "5" is not 5.
    Beside tool calls the content is free too.
    """
    reference = reference_of(example, turn)
    if len(reference.tool_calls) != len(reply.tool_calls):
        return False
    if not reference.tool_calls:
        return reply.content.strip() == reference.content
    return all(
        wanted[0] == given[0] and _canonical(wanted[1]) == _canonical(given[1])
        for wanted, given in zip(reference.tool_calls, reply.tool_calls, strict=True)
    )


def _canonical(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):  # a model may write anything; what is no JSON equals no reference
        return None


def split_of(example: Example) -> Split:
    """Where the instance belongs for ever: 96% train, 2% validation, 2% test, by the hash of what it says."""
    instance: list[Any] = [example.messages, example.tools, example.raw]
    digest = hashlib.sha256(json.dumps(instance, sort_keys=True).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    return "train" if bucket < 96 else "validation" if bucket < 98 else "test"


def draw(family: Family, rng: random.Random, difficulty: int, split: Split) -> Example:
    """Samples until an example of the wanted split comes; about 50 tries for the small splits."""
    while True:
        example = family.sample(rng, difficulty)
        if split_of(example) == split:
            return example


def call(index: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One tool call of an assistant message, the `index`-th of its conversation, counted from 1."""
    return {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
