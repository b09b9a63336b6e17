"""What a caller may give as a prompt, and what `LLM` makes of it: ids, and what is known beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from minimax_m1.engine.request import Past
from minimax_m1.errors import RequestError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Mapping[str, Any]  # {"prompt": str} or {"prompt_token_ids": [...]} as in vLLM
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPrompt:
    """A prompt's ids; its text, where it came as text; a past that holds how it begins."""

    text: str | None
    ids: list[int]
    past: Past | None = None


def read_prompt(prompt: Prompt, tokenizer: MiniMaxM1Tokenizer) -> ReadPrompt:
    """Text is encoded; ids are taken as they are, with a `past` where one is given.

    Raises:
        RequestError: a mapping holds neither text nor ids.
    """
    past: Past | None = None
    if isinstance(prompt, Mapping):
        past = prompt.get("past")
        if "prompt_token_ids" in prompt:
            return ReadPrompt(text=prompt.get("prompt"), ids=_ids(prompt["prompt_token_ids"]), past=past)
        if "prompt" not in prompt:
            found = sorted(map(str, prompt))
            raise RequestError(f'a prompt mapping needs "prompt" or "prompt_token_ids", got {found}', param="prompt")
        prompt = str(prompt["prompt"])
    if isinstance(prompt, str):
        return ReadPrompt(text=prompt, ids=tokenizer.encode(prompt), past=past)
    return ReadPrompt(text=None, ids=_ids(prompt))


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Prompts as a list, where one may stand alone; a list of numbers is one prompt."""
    if isinstance(prompts, str | Mapping) or (
        len(prompts) > 0 and not isinstance(prompts[0], str | Mapping | Sequence | np.ndarray)
    ):
        return [cast(Prompt, prompts)]
    return list(cast("Sequence[Prompt]", prompts))


def talks(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> Sequence[Sequence[Message]]:
    """Conversations as a list, where one may stand alone."""
    one = not messages or isinstance(messages[0], Mapping)
    return cast("Sequence[Sequence[Message]]", [messages] if one else messages)


def one_each(given: T | Sequence[T] | None, default: T, count: int, name: str) -> Sequence[T]:
    """`given` for each of `count` prompts: its own, or the one for all.

    Raises:
        RequestError: there are more or fewer than prompts.
    """
    if given is None or isinstance(given, type(default)):
        return [default if given is None else given] * count
    several = cast("Sequence[T]", given)
    if len(several) != count:
        raise RequestError(f"{len(several)} {name.replace('_', ' ')} were given for {count} prompts", param=name)
    return several


def _ids(given: Any) -> list[int]:
    return cast("list[int]", given.tolist()) if isinstance(given, np.ndarray) else list(given)
