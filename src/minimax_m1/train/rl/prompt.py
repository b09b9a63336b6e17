"""`Prompt`: one question that reinforcement learning asks, and `PromptSource`, where such questions come from.

In: the number of a draw and a difficulty. Out: what the model continues as ids, what was asked as rewards read it, and
the columns that rewards get beside it. Since a draw depends on its numbers alone, a run's place is a few counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minimax_m1.train.rl.reward import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one group of answers is sampled for.

    source: the source's name. level: the difficulty, 1 to 10, or 0 where the source has none. asked: messages, or plain
    text where no chat template is meant. tools: bare definitions. ids: what the model continues, at least one token.
    columns: what rewards get beside it. place: where it came from, for messages: "prompts.jsonl:12" or "strings/83".
    """

    source: str
    level: int
    asked: Text
    tools: tuple[dict[str, Any], ...]
    ids: list[int]
    columns: Mapping[str, Any]
    place: str


class PromptSource(Protocol):
    """An endless, numbered supply of prompts."""

    @property
    def name(self) -> str:
        """What shares and messages call it."""

    @property
    def levels(self) -> Sequence[int]:
        """The difficulties that it can be asked for, rising; () where it has none."""

    def draw(self, index: int, level: int) -> Prompt:
        """Draw number `index` (0, 1, ...) at this level, 0 where there is none: the same whatever was drawn before.

        Raises DataError where the draw's data cannot be used.
        """
