"""The task families by name: what nano is trained and graded on."""

from __future__ import annotations

from collections.abc import Mapping

from minimax_m1.tasks import addition, arithmetic, code, instructions, lookup, recall, stories, strings, talk, tools
from minimax_m1.tasks.example import Family
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
