"""Length bias: the running correlation of rewards and lengths, and when it is told."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from minimax_m1.train.rl.reward_length import LengthBias


def feed(bias: LengthBias, love: float, batches: int, rng: random.Random) -> list[str | None]:
    """Batches of 8 prompts with 8 answers whose reward is `love` times the length and noise of the same size."""
    told = []
    for _ in range(batches):
        groups = [n // 8 for n in range(64)]
        lengths = [rng.randrange(100, 200) + 1000 * group for group in groups]
        rewards = [
            love * (length - 1000 * group) / 29 + rng.gauss(0, 1) - 5 * group
            for length, group in zip(lengths, groups, strict=True)
        ]
        told.append(bias.update(rewards, lengths, groups))
    return told


def test_it_is_pearsons_r_within_groups() -> None:
    bias = LengthBias(half_life=1e12)
    rewards, lengths = [1.0, 3.0, 2.0, 9.0, 7.0], [10, 50, 20, 5, 6]
    bias.update(rewards, lengths, ["a", "a", "a", "b", "b"])
    r, n = np.array(rewards), np.array(lengths, float)
    for part in (slice(0, 3), slice(3, 5)):
        r[part] -= r[part].mean()
        n[part] -= n[part].mean()
    assert bias.correlation == pytest.approx(np.corrcoef(r, n)[0, 1])


def test_long_answers_to_hard_prompts_are_no_bias() -> None:
    bias = LengthBias()
    feed(bias, 0.0, 20, random.Random(0))  # across prompts, rewards fall as lengths grow
    assert abs(bias.correlation) < 0.1


def test_a_rise_is_told_once_and_again_after_it_has_fallen() -> None:
    bias, rng = LengthBias(half_life=300, least=500), random.Random(0)
    assert not any(feed(bias, 0.0, 30, rng))
    told = feed(bias, 1.0, 30, rng)
    assert sum(sentence is not None for sentence in told) == 1
    assert next(filter(None, told)).startswith("rewards follow length: their correlation within groups is 0.")
    assert not any(feed(bias, 0.0, 30, rng))
    assert sum(sentence is not None for sentence in feed(bias, 1.0, 30, rng)) == 1


def test_a_correlation_that_was_there_from_the_start_is_usual() -> None:
    assert not any(feed(LengthBias(half_life=300), 1.0, 40, random.Random(1)))


def test_answers_without_reward_and_groups_of_one_tell_nothing() -> None:
    bias = LengthBias()
    bias.update([math.nan, 1.0, 5.0], [1, 2, 9], ["a", "a", "b"])
    assert math.isnan(bias.correlation)
    assert bias.state()["answers"] == 2


def test_it_goes_on_where_it_stopped() -> None:
    whole, first = LengthBias(half_life=100, least=100), LengthBias(half_life=100, least=100)
    rng, same = random.Random(2), random.Random(2)
    told = feed(whole, 0.0, 10, rng) + feed(whole, 1.0, 10, rng)
    before = feed(first, 0.0, 10, same)
    second = LengthBias(half_life=100, least=100, told=first.state())
    assert before + feed(second, 1.0, 10, same) == told and any(told)
    assert second.correlation == whole.correlation
