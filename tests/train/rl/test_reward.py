"""Several rewards summed: weights, what does not apply, and failures that are told and cost no more than they must."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.train.rl.reward import Answers, Flaw, Reward, RewardSet, last_reply, spoken


def answers(count: int, **columns: Sequence[Any]) -> Answers:
    return Answers(
        prompts=[f"What is {n}?" for n in range(count)], completions=[str(n) for n in range(count)], columns=columns
    )


def gives(*values: Any, name: str = "fixed", weight: float = 1.0) -> Reward:
    return Reward(name=name, grade=lambda _: list(values), weight=weight, place="my_reward.py:3")


def test_parts_are_weighted_summed_and_kept() -> None:
    scored = RewardSet([gives(1, 0.5, name="right"), gives(True, np.float32(0.5), name="form", weight=0.1)]).score(
        answers(2)
    )
    np.testing.assert_allclose(scored.total, [1.1, 0.55])
    np.testing.assert_array_equal(scored.by_reward["form"], [1, 0.5])  # without its weight
    assert not scored.faults


def test_what_does_not_apply_adds_nothing_and_an_answer_to_which_nothing_applies_has_no_reward() -> None:
    scored = RewardSet([gives(None, 1, None, name="a"), gives(2, None, None, name="b")]).score(answers(3))
    np.testing.assert_array_equal(scored.total, [2, 1, math.nan])
    np.testing.assert_array_equal(scored.by_reward["a"], [math.nan, 1, math.nan])
    assert not scored.faults


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (math.nan, "ValueError", "a reward must be within ±1e+09, got nan"),
        (-math.inf, "ValueError", "a reward must be within ±1e+09, got -inf"),
        (10**400, "ValueError", "a reward must be within ±1e+09, got inf"),
        ("1.0", "TypeError", "a reward is a number or None, got str '1.0'"),
        ([1.0], "TypeError", "a reward is a number or None, got list [1.0]"),
        (Flaw(error="Late", message="too late"), "Late", "too late"),
    ],
)
def test_a_bad_value_costs_its_own_answer_and_is_told(bad: Any, error: str, says: str) -> None:
    scored = RewardSet([gives(1, bad, 1, bad), gives(1, 1, 1, 1, name="other")]).score(answers(4))
    np.testing.assert_array_equal(scored.total, [2, math.nan, 2, math.nan])
    np.testing.assert_array_equal(scored.by_reward["other"], [1, 1, 1, 1])
    (fault,) = scored.faults
    assert (fault.reward, fault.error, fault.message) == ("fixed", error, says)
    assert (fault.example, fault.prompt, fault.count, fault.answers) == (1, "What is 1?", 2, 4)


def raising(_: Answers) -> list[float]:
    raise KeyError("gold\nanswer")


@pytest.mark.parametrize(
    ("grade", "error", "says"),
    [
        (raising, "KeyError", "'gold\\nanswer'"),
        (lambda _: [1.0], "ValueError", "gave 1 rewards for 3 answers"),
        (lambda _: 1.0, "TypeError", "'float' object is not iterable"),
    ],
)
def test_a_reward_that_fails_as_a_whole_costs_the_batch(grade: Callable[[Answers], Any], error: str, says: str) -> None:
    scored = RewardSet([Reward(name="mine", grade=grade), gives(1, 1, 1)]).score(answers(3))
    assert np.isnan(scored.total).all()
    (fault,) = scored.faults
    assert (fault.error, fault.message, fault.count) == (error, says, 3)


def test_a_fault_reads_as_one_sentence() -> None:
    (fault,) = RewardSet([gives(1, math.nan)]).score(answers(2)).faults
    assert str(fault) == (
        "fixed at my_reward.py:3: ValueError: a reward must be within ±1e+09, got nan; 1 of 2 answers have no reward, "
        "first answer 1 to 'What is 1?'"
    )


def test_different_failures_of_one_reward_are_told_apart() -> None:
    scored = RewardSet([gives(math.nan, "x", math.inf)]).score(answers(3))
    assert [(fault.error, fault.example, fault.count) for fault in scored.faults] == [
        ("ValueError", 0, 2),
        ("TypeError", 1, 1),
    ]


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        ([], "there is no reward"),
        ([gives(), gives()], "two rewards are called 'fixed'"),
        ([gives(weight=math.inf)], "must be within ±1e.09, got inf"),
    ],
)
def test_rewards_that_cannot_be_summed_are_refused(rewards: list[Reward], says: str) -> None:
    with pytest.raises(DataError, match=says):
        RewardSet(rewards)


def test_a_column_that_rows_lack_is_named_before_anything_runs() -> None:
    rewards = RewardSet(
        [Reward(name="mine", grade=raising, needs=frozenset({"gold"}), place="mine.py:7"), gives(name="other")]
    )
    rewards.check(["gold", "answer"])
    with pytest.raises(DataError, match=r"mine\.py:7 needs the column 'gold'; the rows have answer, kind"):
        rewards.check(["kind", "answer"])


def test_closing_the_set_closes_each_reward() -> None:
    closed = []
    with RewardSet([Reward(name=name, grade=raising, close=lambda: closed.append(1)) for name in "ab"]):
        assert not closed
    assert len(closed) == 2


def test_messages_speak_with_their_last_reply() -> None:
    messages = [
        {"role": "assistant", "content": "first"},
        {"role": "tool", "content": "no"},
        {"role": "assistant", "content": "last", "reasoning_content": "hm"},
    ]
    assert spoken(messages) == "last" and last_reply(messages)["reasoning_content"] == "hm"
    assert spoken("plain") == "plain" and spoken([]) == "" and spoken([{"role": "assistant", "content": None}]) == ""


ANYTHING = st.one_of(
    st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=3), st.just(Flaw(error="E", message="m"))
)


@given(st.lists(st.tuples(ANYTHING, ANYTHING), min_size=1, max_size=6))
def test_a_total_is_the_sum_of_good_parts_or_nan(rows: list[tuple[Any, Any]]) -> None:
    first, second = zip(*rows, strict=True)
    scored = RewardSet([gives(*first, name="a"), gives(*second, name="b", weight=-2)]).score(answers(len(rows)))

    def good(value: Any) -> bool:
        return isinstance(value, int | float) and abs(value) <= 1e9

    for total, one, two in zip(scored.total, first, second, strict=True):
        given = [value for value in (one, two) if value is not None]
        if given and all(map(good, given)):
            assert total == pytest.approx(float(one or 0) - 2 * float(two or 0))
        else:
            assert math.isnan(total)
    failed = [value for row in rows for value in row if value is not None and not good(value)]
    assert sum(fault.count for fault in scored.faults) == len(failed)
