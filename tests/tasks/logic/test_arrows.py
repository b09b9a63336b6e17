"""The way is where the arrows lead."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import arrows

NEXT = {">": (0, 1), "<": (0, -1), "^": (-1, 0), "v": (1, 0)}


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_following_the_arrows_gives_thought_and_answer(seed: int, difficulty: int) -> None:
    puzzle = arrows.pose(random.Random(seed), difficulty)
    rows = re.findall(r"^([A-F]): ([<>^v* ]+)$", puzzle.prompt, re.MULTILINE)
    assert [letter for letter, _ in rows] == list("ABCDEF"[: len(rows)])
    grid = {f"{letter}{n}": sign for letter, row in rows for n, sign in enumerate(row.split(" "), 1)}
    assert len(grid) == len(rows) ** 2 == (2 + 4 * difficulty // 10) ** 2
    cell = re.search(r"\b[A-F][1-6]\b", re.sub(r"like A1", "", puzzle.prompt))[0]  # type: ignore[index]
    steps = re.search(r"(\d+) steps?", puzzle.prompt)
    left = int(steps[1]) if steps else 99
    lines = []
    visited = [cell]
    while left and grid[cell] != "*":
        down, right = NEXT[grid[cell]]
        ahead = f"{chr(ord(cell[0]) + down)}{int(cell[1]) + right}"
        lines.append(f"{len(lines) + 1} {cell}{grid[cell]}{ahead}")
        cell, left = ahead, left - 1
        visited.append(cell)
    assert puzzle.answer == cell and puzzle.thought == "\n".join(lines)
    assert lines and len(set(visited)) == len(visited)
    assert ("*" in puzzle.prompt) == (steps is None)
    if steps:
        assert len(lines) == int(steps[1])


def test_both_kinds_are_common_and_false_stars_too() -> None:
    rng = random.Random(0)
    stars = [arrows.pose(rng, 8).prompt.count("*") for _ in range(200)]
    assert 70 < stars.count(0) < 130 and stars.count(3) > 50
