"""Recipes of reinforcement learning: what they refuse and in which words, settings, and the way to JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.train.recipes import rl_recipe
from minimax_m1.train.rl.policy_loss import PolicyLoss
from minimax_m1.train.rl.recipe import RLRecipe

PLAIN = RLRecipe(name="mine", start="nano", shares={"addition": 1.0})


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"shares": {"adition": 1.0}}, "no task family 'adition'; there are "),
        ({"final_shares": {"adition": 1.0}}, "no task family 'adition'; there are "),
        ({"shares": {}}, "shares must be numbers of at least 0 that sum to 1, got {}"),
        ({"shares": {"addition": 0.5}}, "shares must be numbers of at least 0 that sum to 1, got {'addition': 0.5}"),
        ({"shares": {"addition": 2.0, "recall": -1.0}}, "shares must be numbers of at least 0 that sum to 1"),
        ({"shares": {"addition": math.nan}}, "shares must be numbers of at least 0 that sum to 1"),
        ({"shares": {"addition": "1"}}, "shares must be numbers of at least 0 that sum to 1"),
        ({"shares": {"addition": True}}, "shares must be numbers of at least 0 that sum to 1"),
        ({"final_shares": {"addition": 0.9}}, "shares must be numbers of at least 0 that sum to 1"),
        ({"data": ("a.jsonl",)}, "files of prompts need a share, data: got ['a.jsonl'] and {'addition': 1.0}"),
        ({"held_out_cases": -1}, "held_out_cases must be at least 0, got -1"),
        ({"held_out_every": 0}, "held_out_every must be at least 1, got 0"),
        ({"held_out": (3,)}, "held_out must be texts, got [3]"),
        ({"turns": 0}, "turns must be at least 1, got 0"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"prompts": 0}, "prompts must be at least 1, got 0"),
        ({"group": 1}, "group must be at least 2 and at most 1024, got 1"),
        ({"group": 1025}, "group must be at least 2 and at most 1024, got 1025"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"refills": -1}, "refills must be at least 0 and at most 100, got -1"),
        ({"overlong_share": 1.1}, "overlong_share must be at least 0 and at most 1, got 1.1"),
        ({"overlong_share": math.nan}, "overlong_share must be at least 0 and at most 1, got nan"),
        ({"repetition_window": -1}, "repetition_window must be at least 0, got -1"),
        ({"repetition_window": 1}, "repetition_window must be 0 or at least 2, got 1"),
        ({"max_difficulty": 0}, "max_difficulty must be at least 1 and at most 10, got 0"),
        ({"max_difficulty": 11}, "max_difficulty must be at least 1 and at most 10, got 11"),
        ({"easy": 1.5}, "easy must be at least 0 and at most 1, got 1.5"),
        ({"pass_reward": math.inf}, "pass_reward must be "),
        ({"final_learning_rate": -1.0}, "final_learning_rate must be "),
        ({"final_learning_rate": math.inf}, "final_learning_rate must be "),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"decay_from": 1.01}, "decay_from must be at least 0 and at most 1, got 1.01"),
        ({"weight_decay": -0.1}, "weight_decay must be "),
        ({"weight_decay": math.inf}, "weight_decay must be "),
        ({"lora_rank": -1}, "lora_rank must be at least 0, got -1"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1 and at most 65536, got 0"),
        ({"log_every": 0}, "log_every must be at least 1, got 0"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes must be at least 0, got -1.0"),
        ({"checkpoint_minutes": math.nan}, "checkpoint_minutes must be at least 0, got nan"),
        *(
            ({name: value}, f"{name} must be above 0, got {value}")
            for name in ("learning_rate", "clip_norm", "eps", "lora_alpha", "reward_seconds")
            for value in (0.0, -1.0, math.inf, math.nan)
        ),
        ({"betas": (0.9,)}, "betas must be two numbers of at least 0 and below 1, got [0.9]"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers of at least 0 and below 1, got [0.9, 1.0]"),
        ({"betas": ("a", 0.9)}, "betas must be two numbers of at least 0 and below 1, got ['a', 0.9]"),
        ({"output_lengths": ()}, "output_lengths must be whole numbers above 0, got []"),
        ({"output_lengths": (0, 5)}, "output_lengths must be whole numbers above 0, got [0, 5]"),
        ({"output_lengths": (2.5,)}, "output_lengths must be whole numbers above 0, got [2.5]"),
        ({"output_lengths": (True,)}, "output_lengths must be whole numbers above 0, got [True]"),
        ({"output_lengths": (20, 10)}, "output_lengths must rise and stay below context (4096), got [20, 10]"),
        ({"output_lengths": (10, 4096)}, "output_lengths must rise and stay below context (4096), got [10, 4096]"),
        ({"precision": "float16"}, 'precision must be "float32" or "bfloat16", got \'float16\''),
        ({"rollout_precision": "int8"}, 'rollout_precision must be "float32" or "bfloat16", got \'int8\''),
        ({"batch_tokens": 4095}, "batch_tokens must be at least context (4096), got 4095"),
        ({"rewards": ("family", 3)}, "rewards must be texts, got ['family', 3]"),
        ({"data": (3,), "shares": {"data": 1.0}}, "data must be texts, got [3]"),
        ({"lora_targets": (3,)}, "lora_targets must be texts, got [3]"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        replace(PLAIN, **change)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"group": 2, "refills": 0, "overlong_share": 0.0, "easy": 0.0, "decay_from": 1.0, "warmup_steps": 0},
        {"group": 1024, "refills": 100, "overlong_share": 1.0, "easy": 1.0, "decay_from": 0.0, "max_difficulty": 10},
        {"output_lengths": (1,), "context": 2, "batch_tokens": 2},
        {"output_lengths": (9, 9, 4095)},
        {"shares": {"data": 1.0}, "data": ("a.jsonl",), "final_shares": {"addition": 1}},
        {"final_shares": {"data": 0.5, "recall": 0.5}, "data": ("a.jsonl",)},
        {"repetition_window": 0, "betas": (0, 0.0), "pass_reward": -1e9, "final_learning_rate": 0.0},
        {"repetition_window": 2},
    ],
)
def test_the_ends_of_every_range_are_allowed(change: dict[str, Any]) -> None:
    recipe = replace(PLAIN, **change)
    assert recipe.prompt_room == recipe.context - recipe.output_lengths[-1] >= 1


shares = st.sampled_from([{"addition": 1.0}, {"recall": 0.25, "strings": 0.75}, {"addition": 1}])
losses = st.one_of(
    st.builds(PolicyLoss, is_weight_max=st.none() | st.floats(1, 1e6), is_weight_min=st.floats(0, 1)),
    st.builds(PolicyLoss, eps_high=st.floats(0, 1e6), loss_norm=st.sampled_from(["sample", "batch_token"])),
    st.builds(PolicyLoss, algorithm=st.sampled_from(["grpo", "dapo"]), clip_high=st.none() | st.floats(0, 9)),
    st.builds(PolicyLoss, token_mask=st.just("ppo_region"), clip_low=st.floats(0, 1)),
    st.builds(PolicyLoss, loss_norm=st.just("fixed_length"), max_length=st.integers(1, 9999)),
)
recipes = st.builds(
    RLRecipe,
    name=st.text(max_size=5),
    start=st.text(max_size=5),
    shares=shares,
    final_shares=shares | st.just({}),
    rewards=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    output_lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=4).map(lambda lengths: tuple(sorted(lengths))),
    betas=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    learning_rate=st.floats(1e-9, 1e9),
    seed=st.integers(),
    mask_truncated=st.booleans(),
    lora_targets=st.lists(st.sampled_from(["q_proj", "o_proj"]), max_size=2).map(tuple),
    environment=st.text(max_size=5),
    loss=losses,
)


@given(recipe=recipes)
def test_a_recipe_comes_back_from_json_as_it_was(recipe: RLRecipe) -> None:
    told = json.loads(json.dumps(recipe.to_dict()))
    assert told["stage"] == "rl"
    assert RLRecipe.from_dict(told) == recipe
    assert RLRecipe.from_dict(told).to_dict() == told == recipe.to_dict()


def test_a_record_that_knew_fewer_fields_has_the_defaults_of_today() -> None:
    told = replace(PLAIN, group=4).to_dict()
    del told["adaptive"], told["recompute"], told["loss"]["rollout_weight_max"]
    assert RLRecipe.from_dict(told) == replace(PLAIN, group=4)


def test_the_record_is_a_copy() -> None:
    given = {"addition": 1.0}
    recipe = replace(PLAIN, shares=given)
    told = recipe.to_dict()
    told["shares"]["recall"] = 3.0
    told["loss"]["algorithm"] = "dapo"
    assert recipe.shares == {"addition": 1.0} and recipe.loss.algorithm == "cispo"


@pytest.mark.parametrize(
    "settings, change, loss",
    [
        (["group=4", "learning_rate=1", "start=runs/x"], {"group": 4, "learning_rate": 1.0, "start": "runs/x"}, {}),
        (['rewards=["a.py", "format=0.5"]'], {"rewards": ("a.py", "format=0.5")}, {}),
        (['shares={"recall": 1}', "seed=-3"], {"shares": {"recall": 1}, "seed": -3}, {}),
        (['final_shares={"recall": 1.0}'], {"final_shares": {"recall": 1.0}}, {}),
        (["environment=a=b.py:C"], {"environment": "a=b.py:C"}, {}),
        (["output_lengths=[10, 20]", "mask_truncated=true"], {"output_lengths": (10, 20), "mask_truncated": True}, {}),
        (["is_weight_max=6"], {}, {"is_weight_max": 6.0}),
        (["eps_high=4"], {}, {"eps_high": 4.0}),
        (["algorithm=dapo", "clip_high=0.3", "group=4"], {"group": 4}, {"algorithm": "dapo", "clip_high": 0.3}),
        (["clip_low=0.1", "token_mask=ppo_region"], {}, {"clip_low": 0.1, "token_mask": "ppo_region"}),
        (["max_length=300", "loss_norm=fixed_length"], {}, {"max_length": 300, "loss_norm": "fixed_length"}),
        (["group=3", "group=5"], {"group": 5}, {}),
        ([], {}, {}),
    ],
)
def test_settings_change_fields_and_those_of_the_loss(
    settings: list[str], change: dict[str, Any], loss: dict[str, Any]
) -> None:
    found = PLAIN.override(settings)
    assert found == replace(PLAIN, **change, loss=replace(PLAIN.loss, **loss))
    assert all(type(getattr(found, name)) is type(value) for name, value in change.items())
    assert all(type(getattr(found.loss, name)) is type(value) for name, value in loss.items())


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ("grup=4", "cannot set 'grup=4'; keys are adaptive, algorithm, "),
        ("group", "cannot set 'group'; keys are "),
        ("name=x", "cannot set 'name=x'; keys are "),
        ("loss={}", "cannot set 'loss={}'; keys are "),
        ("group=four", "the value of group is not JSON: 'four'"),
        ("group=4.0", "group must be of type int, got 4.0"),
        ("group=true", "group must be of type int, got true"),
        ("adaptive=1", "adaptive must be of type bool, got 1"),
        ("group=1", "group must be at least 2 and at most 1024, got 1"),
        ("is_weight_max=high", "the value of is_weight_max is not JSON: 'high'"),
        ("is_weight_max=0.5", "is_weight_max is absolute and must be at least 1"),
        ("is_weight_max=NaN", "is_weight_max is absolute and must be at least 1"),
        ("algorithm=ppo", "algorithm must be one of cispo, reinforce, grpo, dapo, got 'ppo'"),
        ("clip_high=0.3", "cispo reads clip_low and clip_high only with token_mask ppo_region"),
        ("loss_norm=fixed_length", "fixed_length needs max_length above 0"),
        ('rewards="a.py"', 'rewards must be of type tuple, got "a.py"'),
        ("weight_decay=Infinity", "weight_decay must be "),
        ('betas=["a", 0.9]', "betas must be two numbers of at least 0 and below 1, got ['a', 0.9]"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_key(setting: str, sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        PLAIN.override([setting])
    assert sentence in str(refusal.value)


def test_the_two_spellings_of_the_cap_are_refused_together_and_one_gives_way_by_null() -> None:
    with pytest.raises(DataError, match="give is_weight_max or eps_high"):
        PLAIN.override(["is_weight_max=5", "eps_high=4"])
    capped = PLAIN.override(["is_weight_max=5"])
    with pytest.raises(DataError, match="give is_weight_max or eps_high"):
        capped.override(["eps_high=4"])
    assert capped.override(["is_weight_max=null", "eps_high=3"]).loss == PolicyLoss(eps_high=3.0)
    assert PLAIN.override(["is_weight_max=null"]) == PLAIN
    with pytest.raises(DataError, match="is_weight_min must be of type float, got null"):
        PLAIN.override(["is_weight_min=null"])


def test_the_rate_warms_up_by_updates_holds_and_falls_by_progress() -> None:
    recipe = replace(PLAIN, learning_rate=8.0, final_learning_rate=2.0, warmup_steps=4, decay_from=0.5)
    assert [recipe.rate(update, 0.0) for update in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
    assert [recipe.rate(99, progress) for progress in (0.5, 0.75, 1.0)] == [8.0, 5.0, 2.0]
    assert recipe.rate(0, 1.0) == 0.5
    steady = replace(recipe, warmup_steps=0, decay_from=1.0)
    assert steady.rate(0, 0.0) == steady.rate(0, 0.999) == 8.0


def test_an_environment_is_its_own_reward_where_none_is_named() -> None:
    assert rl_recipe("prompts", ['data=["a.jsonl"]', "environment=world.py"]).rewards == ("environment",)
    assert rl_recipe("prompts", ['data=["a.jsonl"]', "environment=w.py", 'rewards=["r.py"]']).rewards == ("r.py",)
