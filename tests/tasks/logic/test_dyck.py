"""The answer balances the brackets, and each line of the thought balances what was read so far."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import dyck


def balanced(text: str) -> bool:
    while (less := re.sub(r"\(\)|\[\]|\{\}|<>", "", text)) != text:
        text = less
    return not text


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_the_answer_and_every_line_balance(seed: int, difficulty: int) -> None:
    puzzle = dyck.pose(random.Random(seed), difficulty)
    (text,) = re.findall(r"[][(){}<>]+", puzzle.prompt)
    assert len(text) == 2 * difficulty + 1
    assert puzzle.answer and balanced(text + puzzle.answer) and set(puzzle.answer) <= set(")]}>")
    lines = puzzle.thought.splitlines()
    assert len(lines) == len(text)
    for place, line in enumerate(lines):
        assert line[:2] == text[place] + ":"
        assert balanced(text[: place + 1] + line[2:].replace("-", ""))
    assert lines[-1][2:] == puzzle.answer


def test_wrong_nesting_is_our_mistake() -> None:
    assert dyck.trace("([]") == "(:)\n[:])\n]:)"
    with pytest.raises(AssertionError, match="closes nothing"):
        dyck.trace("(]")
