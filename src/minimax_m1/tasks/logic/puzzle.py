"""What all puzzles share: a request, its answer, and the thought that leads there.

In: a function that poses one puzzle of a difficulty. Out: a conversation with one puzzle, or with two smaller ones
after each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from minimax_m1.tasks.example import Example, Message, assistant, user, with_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """A request, the thought and the answer; thought and answer follow from the request alone."""

    prompt: str
    thought: str
    answer: str


def conversation(family: str, pose: Callable[[random.Random, int], Puzzle], rng: random.Random, level: int) -> Example:
    """Draws a puzzle of the level, or in a fifth of the cases two of a quarter of it."""
    messages: list[Message] = []
    for part in [level] if rng.random() < 0.8 else [max(1, level // 4)] * 2:
        puzzle = pose(rng, part)
        messages += [user(puzzle.prompt), assistant(puzzle.answer, puzzle.thought)]
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=family, difficulty=level, messages=tuple(messages), turns=turns)
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.1 else example
