"""Recipes: overrides by name and type, the schedule, phases."""

from __future__ import annotations

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.recipe import RECIPES, recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_whole(name: str) -> None:
    plan = recipe(name)
    assert plan.name == name and plan.phases[-1].until == 1.0
    assert sum(plan.shares.values()) == pytest.approx(1)


def test_overrides() -> None:
    plan = recipe("tiny", ["tokens=123", "learning_rate=1", "betas=[0.8, 0.9]", 'shares={"talk": 1.0}'])
    assert (plan.tokens, plan.learning_rate, plan.betas, plan.shares) == (123, 1.0, (0.8, 0.9), {"talk": 1.0})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=3", "cannot set 'steps=3'; keys are"),
        ("tokens", "cannot set 'tokens'"),
        ("tokens=many", "not JSON"),
        ("tokens=1.5", "must be of type int"),
        ("tokens=true", "must be of type int"),
        ("tokens=0", "at least 1, got 0"),
        ("prompt_weight=2", "between 0 and 1, got 2"),
        ('precision="half"', 'must be "float32" or "bfloat16", got \'half\''),
        ('shares={"talk": 0.5}', "sum to 1, got 0.5"),
        ('shares={"poetry": 1.0}', "no task family 'poetry'"),
    ],
)
def test_bad_overrides_are_one_sentence(setting: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        recipe("tiny", [setting])


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(DataError, match="no recipe 'giant'; there are nano, tiny"):
        recipe("giant")


def test_the_rate_warms_up_holds_and_falls() -> None:
    plan = recipe("nano", ["warmup_steps=10", "tokens=1000", "decay_from=0.5"])
    assert plan.rate(0, 0) == pytest.approx(plan.learning_rate / 10)
    assert plan.rate(50, 400) == plan.learning_rate
    assert plan.rate(80, 750) == pytest.approx((plan.learning_rate + plan.final_learning_rate) / 2)
    assert plan.rate(99, 1000) == pytest.approx(plan.final_learning_rate)


def test_phases_follow_each_other() -> None:
    plan = recipe("nano", ["tokens=1000"])
    assert [plan.phase(t).max_difficulty for t in (0, 279, 280, 999, 2000)] == [4, 4, 6, 10, 10]
