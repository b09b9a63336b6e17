"""The families' verifiers as rewards."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from minimax_m1.tasks.example import Example, assistant, user
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.train.rl.reward import Answers, RewardSet, Scored
from minimax_m1.train.rl.reward_family import family_reward, format_reward, reply_of

SUM = Example(family="addition", difficulty=1, messages=(user("2 + 2"), assistant("4", "2+2=4 4")), turns=(1,))


def score(example: Example | None, *said: Any, turn: int = 1, **columns: Any) -> Scored:
    columns = {"example": [example] * len(said), "turn": [turn] * len(said), **columns}
    return RewardSet([family_reward(), format_reward()]).score(
        Answers(prompts=["p"] * len(said), completions=list(said), columns=columns)
    )


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_reference_reply_is_right_and_in_form(name: str) -> None:
    rng = random.Random(name)
    for difficulty in (1, 5, 10):
        example = FAMILIES[name].sample(rng, difficulty)
        for turn in example.turns:
            scored = score(example, [example.messages[turn]], turn=turn)
            np.testing.assert_allclose(scored.total, [1.1])


def test_right_and_well_formed_are_two_things() -> None:
    said = [
        [assistant("4", "2+2=4 4")],
        [assistant("5", "2+2=5 5")],
        [assistant("4")],  # without the thought
        [assistant("", "2+2=4 4")],
        "4",
        [],
    ]
    scored = score(SUM, *said)
    np.testing.assert_array_equal(scored.by_reward["family"], [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(scored.by_reward["format"], [1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(scored.total, [1.1, 0.1, 1, 0, 1, 0])


def test_an_answer_that_was_cut_is_not_in_form() -> None:
    whole = [assistant("4", "2+2=4 4")]
    scored = score(SUM, *[whole] * 4, finish_reasons=["stop", "length", "repetition", "tool_calls"])
    np.testing.assert_array_equal(scored.by_reward["format"], [1, 0, 0, 1])


def test_rows_without_an_example_are_passed_over() -> None:
    scored = score(None, "4")
    assert math.isnan(scored.total[0]) and not scored.faults


@pytest.mark.parametrize(("arguments", "form"), [({"a": 1}, 1), ('{"a": 1}', 1), ("[1]", 0), ("{", 0), ("[" * 9999, 0)])
def test_calls_carry_objects(arguments: Any, form: int) -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    scored = score(SUM, [{"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": calls}])
    assert scored.by_reward["format"][0] == form
    assert scored.by_reward["family"][0] == 0


def test_a_reply_is_the_last_message_of_the_model() -> None:
    reply = reply_of([assistant("a"), {"role": "tool", "content": "x"}, assistant("b", "because")])
    assert (reply.reasoning, reply.content, reply.tool_calls) == ("because", "b", ())
