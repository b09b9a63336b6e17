"""The repetition stop: what it says, said again by brute force."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.engine import repetition as module
from minimax_m1.engine.repetition import Repetition
from minimax_m1.engine.request import RepetitionStop

SURE, UNSURE = math.log(0.995), math.log(0.5)


def met(rule: RepetitionStop, text: list[tuple[int, bool]]) -> bool:
    """The rule, word for word."""
    last = text[-rule.window :]
    if len(last) < rule.window or not all(sure for _, sure in last):
        return False
    ids = [token for token, _ in last]
    return rule.max_period is None or any(
        all(ids[i] == ids[i - period] for i in range(period, len(ids))) for period in range(1, rule.max_period + 1)
    )


@given(
    window=st.integers(2, 9),
    period=st.one_of(st.none(), st.integers(1, 4)),
    room=st.integers(1, 6),
    text=st.lists(st.tuples(st.integers(0, 1), st.sampled_from([True] * 9 + [False])), max_size=60),
)
def test_it_is_the_rule_at_every_token(
    window: int, period: int | None, room: int, text: list[tuple[int, bool]]
) -> None:
    rule = RepetitionStop(window=window, max_period=None if period is None else min(period, window // 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROOM", room)  # the ids move to make room all the time
        repetition = Repetition(rule)
        for end, (token, sure) in enumerate(text, 1):
            assert repetition.push(token, SURE if sure else UNSURE) == met(rule, text[:end])


def test_minimax_rule_alone_needs_no_period() -> None:
    repetition = Repetition(RepetitionStop(window=3000, max_period=None))
    assert [repetition.push(token, SURE) for token in range(3001)] == [False] * 2999 + [True] * 2


def test_sure_text_that_does_not_repeat_goes_on() -> None:
    repetition = Repetition(RepetitionStop(window=200, max_period=64))
    assert not any(repetition.push(token % 65, SURE) for token in range(5000))


def test_the_longest_period_is_seen_as_soon_as_the_window_is_full() -> None:
    repetition = Repetition(RepetitionStop(window=200, max_period=64))
    assert [repetition.push(token % 64, SURE) for token in range(5000)].index(True) == 199


def test_an_unsure_token_starts_the_window_again() -> None:
    repetition = Repetition(RepetitionStop(window=10, max_period=2))
    tokens = [repetition.push(7, SURE) for _ in range(9)] + [repetition.push(7, UNSURE)]
    assert not any(tokens)
    assert [repetition.push(7, SURE) for _ in range(10)].index(True) == 9


def test_a_forced_token_counts_as_sure() -> None:
    repetition = Repetition(RepetitionStop(window=4, max_period=1))
    assert [repetition.push(5, logprob) for logprob in (SURE, None, None, SURE)] == [False, False, False, True]


def test_the_probability_must_be_above_the_limit() -> None:
    at, above = (
        Repetition(RepetitionStop(window=2, max_period=1, probability=0.5)),
        Repetition(RepetitionStop(window=2, max_period=1, probability=0.0)),
    )
    assert not [at.push(1, math.log(0.5)) for _ in range(3)][-1]
    assert [above.push(1, -700.0) for _ in range(3)][-1]
    assert not above.push(1, -math.inf)
