"""The task families by name: what nano is trained and graded on."""

from __future__ import annotations

from collections.abc import Mapping

from minimax_m1.tasks import addition, arithmetic, code, instructions, lookup, recall, stories, strings, talk, tools
from minimax_m1.tasks.example import Example, Family, Reply
from minimax_m1.tasks.logic.families import FAMILIES as PUZZLES

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        addition.FAMILY,
        addition.SUMS,
        arithmetic.FAMILY,
        recall.FAMILY,
        lookup.FAMILY,
        tools.FAMILY,
        strings.FAMILY,
        code.FAMILY,
        instructions.FAMILY,
        *PUZZLES,
        stories.FAMILY,
        talk.FAMILY,
    )
}


def is_right(example: Example, turn: int, reply: Reply) -> bool:
    """Whether the verifier accepts a reply; of a raw text (turn 0), whether it is what follows its last "="."""
    if example.raw is not None:
        return reply.content.strip() == example.raw.rpartition("=")[2].strip()
    return FAMILIES[example.family].verify(example, turn, reply)
