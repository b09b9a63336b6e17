"""A job: one kind of short question with a worked answer, as a table of them makes up a family.

In: phrasings, a way to draw the arguments, and the function that works the answer out. Out: conversations of one
or two such questions. The worked answer becomes the thought, so it must follow from the question alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimax_m1.tasks.example import Example, Message, assistant, user, with_system

Solved = tuple[str, str]  # thought, answer
Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`prompts` have a place for each argument that `draw(rng, difficulty)` gives; `solve(**arguments)` answers.

    A tuple among the arguments is written with commas. `least` is the difficulty from which the job is asked,
    `weight` how often beside the others.
    """

    name: str
    prompts: tuple[str, ...]
    draw: Callable[[random.Random, int], Arguments]
    solve: Callable[..., Solved]
    least: int = 1
    weight: int = 1

    def exchange(self, rng: random.Random, difficulty: int) -> list[Message]:
        """A question and its reference reply."""
        arguments = self.draw(rng, difficulty)
        thought, answer = self.solve(**arguments)
        shown = {name: ", ".join(map(str, x)) if isinstance(x, tuple) else x for name, x in arguments.items()}
        return [user(rng.choice(self.prompts).format(**shown)), assistant(answer, thought)]


def converse(family: str, jobs: Sequence[Job], rng: random.Random, difficulty: int) -> Example:
    """One question, or two in a fifth of the cases, from the jobs that the difficulty allows."""
    allowed = [job for job in jobs if job.least <= difficulty]
    messages: list[Message] = []
    for _ in range(2 if rng.random() < 0.2 else 1):
        job = rng.choices(allowed, [job.weight for job in allowed])[0]
        messages += job.exchange(rng, difficulty)
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=family, difficulty=difficulty, messages=tuple(messages), turns=turns)
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.1 else example
