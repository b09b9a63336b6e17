"""Sorted words are sorted, and the keys say so."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import sorting


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_words_are_sorted_in_the_form_asked_for(seed: int, difficulty: int) -> None:
    puzzle = sorting.pose(random.Random(seed), difficulty)
    first, second = (part.split("\n") for part in puzzle.thought.split("\nsorted:\n"))
    words = [line.split(" ")[1] for line in first]
    assert len(words) == len(set(words)) == 2 + 8 * difficulty // 10
    assert re.search(r",? ".join(words), puzzle.prompt)
    form = next(text for text in ("spaces", "commas", "one per line") if f"{text}" in puzzle.prompt)
    assert puzzle.answer == {"spaces": " ", "commas": ", ", "one per line": "\n"}[form].join(sorted(words))
    assert [line.split(" ")[1] for line in second] == sorted(words)
    keys = [line.split(" ")[0] for line in second]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    if difficulty <= 3:
        assert all(len(key) == 1 for key in keys)


@given(words=st.lists(st.text("abc", min_size=1), min_size=1, max_size=8, unique=True))
def test_a_key_belongs_to_one_word(words: list[str]) -> None:
    lines = sorting.keyed(words).split("\n")[: len(words)]
    for line, word in zip(lines, words, strict=True):
        key, said = line.split(" ")
        assert said == word and word.startswith(key)
        assert key == word or sum(other.startswith(key) for other in words) == 1
    assert sorted(words) == [line.split(" ")[1] for line in sorted(lines)]
