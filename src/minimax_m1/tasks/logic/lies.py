"""A web of lies: each person says of another one whether that one lies; does the last one tell the truth?

In: a generator of random numbers and a difficulty (2 to 7 people; from 6 on the sentences are shuffled).
Out: a puzzle answered by yes or no. The thought goes from the person that is known to the one that is asked for,
a line each: "Ben: Anna lies, right, truth".
"""

from __future__ import annotations

import random
from itertools import pairwise

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation
from minimax_m1.tasks.words import NAMES, made_up

_PROMPTS = (
    "{web} Does {name} {verb}? Answer yes or no.",
    "{web} Does {name} {verb}? Say yes or no alone.",
    "{web}\nDoes {name} {verb}? (yes or no)",
    "Everybody always lies or always tells the truth. {web} Does {name} {verb}? Answer yes or no.",
    "Does {name} {verb}? Answer yes or no. {web}",
    "Some of these people always lie. {web} Tell me, yes or no: does {name} {verb}?",
)
_VERBS = ("tell the truth", "lie")


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a web of lies, or two small ones."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws a chain of people in which each speaks about the one before."""
    count = 2 + 5 * (difficulty - 1) // 9
    names = _names(rng, count)
    says = rng.choice(("{0} says {1}", "{0} says that {1}"))
    claims = [rng.choice((True, False)) for _ in names]  # the first is a fact, the others are what they say
    told = [f"{names[0]} {_does(claims[0])}."]
    for (other, name), claim in zip(pairwise(names), claims[1:], strict=True):
        told.append(f"{says.format(name, other)} {_does(claim)}.")
    if difficulty > 5:
        rng.shuffle(told)
    thought, honest = follow(names, claims)
    verb = rng.choice(_VERBS)
    prompt = rng.choice(_PROMPTS).format(web=" ".join(told), name=names[-1], verb=verb)
    return Puzzle(prompt=prompt, thought=thought, answer="yes" if honest == (verb == _VERBS[0]) else "no")


def follow(names: list[str], claims: list[bool]) -> tuple[str, bool]:
    """The thought, and whether the last person tells the truth."""
    honest = claims[0]
    lines = [f"{names[0]}: {'truth' if honest else 'lie'}"]
    for (other, name), claim in zip(pairwise(names), claims[1:], strict=True):
        honest = claim == honest
        lines.append(f"{name}: {other} {_does(claim)}, {'right, truth' if honest else 'wrong, lie'}")
    return "\n".join(lines), honest


def _does(honest: bool) -> str:
    return "tells the truth" if honest else "lies"


def _names(rng: random.Random, count: int) -> list[str]:
    if rng.random() < 0.6:
        return rng.sample(NAMES, count)
    names: list[str] = []
    while len(names) < count:
        name = made_up(rng).capitalize()
        if name not in names:
            names.append(name)
    return names


FAMILY = Family(name="logic_lies", sample=sample, verify=matches)
