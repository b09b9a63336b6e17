"""Positions that skip: they rise, stay below the limit, and jump in few places."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.train.document import skipped_positions


@given(st.integers(1, 300), st.integers(0, 10**6), st.integers(0, 10**6))
def test_positions_rise_and_stay_below_the_limit(length: int, limit: int, seed: int) -> None:
    positions = skipped_positions(length, limit, random.Random(seed))
    assert len(positions) == length and positions[0] == 0
    assert all(a < b for a, b in pairwise(positions))
    assert positions[-1] < max(limit, length)
    assert sum(b - a > 1 for a, b in pairwise(positions)) <= 3


def test_positions_reach_far_in_most_texts_and_nowhere_without_a_limit() -> None:
    rng = random.Random(0)
    reach = [skipped_positions(100, 10**6, rng)[-1] for _ in range(400)]
    assert 150 < sum(last > 1000 for last in reach) < 250 and max(reach) > 300_000
    assert all(skipped_positions(100, 0, rng) == list(range(100)) for _ in range(100))
