"""Who lies follows from the sentences, however they are shuffled."""

from __future__ import annotations

import random
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import lies

CLAIM = re.compile(r"(\w+) says (?:that )?(\w+) (lies|tells the truth)\.")
FACT = re.compile(r"(?:^|[.\n?] |alone\. |no\. )([A-Z]\w+) (lies|tells the truth)\.")


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_the_answer_follows_from_the_sentences(seed: int, difficulty: int) -> None:
    puzzle = lies.pose(random.Random(seed), difficulty)
    claims = CLAIM.findall(puzzle.prompt)
    ((known, does),) = FACT.findall(CLAIM.sub("x.", puzzle.prompt))
    honest = {known: does != "lies"}
    for _ in claims:
        for name, other, said in claims:
            if other in honest:
                honest[name] = honest[other] == (said != "lies")
    assert len(honest) == len(claims) + 1 == 2 + 5 * (difficulty - 1) // 9
    ((name, verb),) = re.findall(r"[Dd]oes (\w+) (lie|tell the truth)\?", puzzle.prompt)
    assert puzzle.answer == ("yes" if honest[name] == (verb != "lie") else "no")
    lines = puzzle.thought.splitlines()
    assert [line.split(": ")[0] for line in lines][-1] == name and len(lines) == len(honest)
    for line in lines:
        assert line.endswith("truth" if honest[line.split(": ")[0]] else "lie")
    for line in lines[1:]:
        speaker, other, said = next(claim for claim in claims if claim[0] == line.split(": ")[0])
        right = "right" if honest[other] == (said != "lies") else "wrong"
        assert line.startswith(f"{speaker}: {other} {said}, {right}, ")


def test_hard_webs_are_shuffled_and_both_answers_are_common() -> None:
    rng = random.Random(0)
    puzzles = [lies.pose(rng, 10) for _ in range(400)]
    orders = [[name for name, _, _ in CLAIM.findall(puzzle.prompt)] for puzzle in puzzles]
    told = [[line.split(": ")[0] for line in puzzle.thought.splitlines()[1:]] for puzzle in puzzles]
    assert sum(a == b for a, b in zip(orders, told, strict=True)) < 20
    assert 150 < Counter(puzzle.answer for puzzle in puzzles)["yes"] < 250
