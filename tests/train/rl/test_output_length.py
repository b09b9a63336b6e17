"""Answers may become longer once their perplexity has settled and the longest of them press on the limit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from minimax_m1.train.rl.output_length import OutputLength

SETTLED = [2.0] * 10


def learned(length: OutputLength, perplexities: Sequence[float], p99: float = 1e9) -> list[int]:
    """After which of these batches a new stage began, counted from 1."""
    return [number for number, value in enumerate(perplexities, 1) if length.learn(p99, value)]


def test_a_stage_lasts_ten_batches_at_least_and_the_last_one_for_ever() -> None:
    length = OutputLength((40, 48, 56))
    assert length.tokens == 40
    assert learned(length, [2.0] * 40) == [10, 20] and length.tokens == 56


def test_both_signs_are_needed() -> None:
    length = OutputLength((100, 200))
    assert learned(length, SETTLED, p99=89.9) == [] and length.tokens == 100
    assert learned(length, [2.0], p99=90.0) == [1] and length.tokens == 200
    falling = [2.0 * 0.98**n for n in range(30)]
    assert learned(OutputLength((100, 200)), falling) == []
    assert learned(OutputLength((100, 200)), falling[::-1]) == []
    assert learned(OutputLength((100, 200)), [*falling, *[falling[-1]] * 20]) != []


@pytest.mark.parametrize("change, settled", [(0.019, True), (0.021, False), (-0.019, True), (-0.021, False)])
def test_settled_is_two_hundredths_between_the_halves(change: float, settled: bool) -> None:
    values = [3.0] * 5 + [3.0 * (1 + change)] * 5
    assert learned(OutputLength((10, 20)), values) == ([10] if settled else [])


def test_a_perplexity_that_is_no_number_settles_nothing() -> None:
    assert learned(OutputLength((10, 20)), [*[2.0] * 9, math.nan]) == []
    assert learned(OutputLength((10, 20)), [math.inf] * 12) == []


def test_it_goes_on_where_it_was() -> None:
    values = [2.0, 2.2, 1.9, 2.1, 2.0, 2.0, 2.0, 2.05, 2.0, 2.0, 2.01, *[2.0] * 25]
    whole = learned(OutputLength((10, 20, 30)), values)
    assert len(whole) == 2
    for stop in range(len(values)):
        first = OutputLength((10, 20, 30))
        before = learned(first, values[:stop])
        second = OutputLength((10, 20, 30))
        second.load(json.loads(json.dumps(first.state())))
        assert second.tokens == first.tokens
        assert before + [stop + number for number in learned(second, values[stop:])] == whole


def test_with_fewer_stages_it_goes_on_at_the_last() -> None:
    length = OutputLength((10, 20, 30))
    learned(length, [2.0] * 20)
    shorter = OutputLength((10, 25))
    shorter.load(length.state())
    assert shorter.tokens == 25 and learned(shorter, [2.0] * 20) == []


def test_lengths_that_fall_are_our_own_mistake() -> None:
    for lengths in ((), (20, 10)):
        with pytest.raises(AssertionError):
            OutputLength(lengths)
