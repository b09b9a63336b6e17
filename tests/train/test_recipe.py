"""Recipes: whole by name, overrides by name and type, the schedule, phases, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.recipe import DATA, Phase, Recipe
from minimax_m1.train.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_whole_and_its_record_is_json(name: str) -> None:
    plan = RECIPES[name]()
    assert plan.name == name and plan.phases[-1].until == 1.0
    assert sum(plan.shares.values()) == pytest.approx(1)
    told = json.loads(json.dumps(plan.to_dict()))
    assert Recipe.from_dict(told) == plan
    assert told["phases"][0]["length"] == plan.phases[0].length and told["start"] == plan.start


def test_overrides() -> None:
    plan = recipe("tiny", ["tokens=123", "learning_rate=1", "betas=[0.8, 0.9]", 'shares={"talk": 1.0}'])
    assert (plan.tokens, plan.learning_rate, plan.betas, plan.shares) == (123, 1.0, (0.8, 0.9), {"talk": 1.0})


def test_settings_of_phases_change_them_all() -> None:
    plan = recipe("tiny", ["batch_tokens=900", "length=800"])
    assert {(phase.batch_tokens, phase.length) for phase in plan.phases} == {(900, 800)}


def test_the_shape_is_set_by_configuration_keys() -> None:
    plan = recipe("tiny", ["model.attn_type_list=[0, 0, 0, 0]", "model.hidden_size=64"])
    assert plan.model is not None and plan.model.softmax_layers == () and plan.model.hidden_size == 64
    with pytest.raises(DataError, match=r"the model's shape: .*hidden_sise"):
        recipe("tiny", ["model.hidden_sise=64"])


def test_a_start_has_its_own_shape() -> None:
    with pytest.raises(DataError, match=r"so model\.hidden_size cannot be set"):
        recipe("tiny", ["start=nano", "model.hidden_size=64"])


def test_a_start_replaces_the_shape_and_tokens_replace_epochs() -> None:
    assert recipe("tiny", ['start="nano"']).model is None
    assert recipe("tiny", ["start=some/folder"]).start == "some/folder"
    plan = recipe("chats", ['data=["a.jsonl"]', "tokens=500"])
    assert (plan.tokens, plan.epochs, plan.data) == (500, 0, ("a.jsonl",))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=3", r"cannot set 'steps=3'; keys are .*batch_tokens.*, model.KEY"),
        ("learning_rate=NaN", "learning_rate must be above 0, got nan"),
        ("clip_norm=Infinity", "clip_norm must be above 0, got inf"),
        ("decay_from=NaN", "decay_from must be at least 0, got nan"),
        ("betas=[1.5]", r"betas must be two numbers .*, got \[1.5\]"),
        ('shares={"talk": "x"}', "shares must be numbers"),
        ("lora_rank=4", "adapters need a trained model"),
        ("stage=sft", "cannot set 'stage=sft'"),
        ("tokens", "cannot set 'tokens'"),
        ("tokens=many", "not JSON"),
        ("tokens=1.5", "must be of type int"),
        ("tokens=true", "must be of type int"),
        ("tokens=0", "above 0 and the other 0, got 0 and 0"),
        ("tokens=-5", "above 0 and the other 0, got -5 and 0"),
        ("epochs=2", "this recipe reads none: epochs is 2.0"),
        ("prompt_weight=2", "between 0 and 1, got 2"),
        ("learning_rate=0", "learning_rate must be above 0, got 0.0"),
        ("lora_rank=-1", "lora_rank must be at least 0, got -1"),
        ('precision="half"', 'must be "float32" or "bfloat16", got \'half\''),
        ('shares={"talk": 0.5}', "sum to 1, got {'talk': 0.5}"),
        ('shares={"talk": 2.0, "tools": -1.0}', "at least 0"),
        ('shares={"poetry": 1.0}', "no task family 'poetry'; there are .*data"),
        ('data=["x.jsonl"]', "files of data need a share"),
        ("max_difficulty=11", "between 1 and 10, got 11"),
        ("length=100000", "at most batch_tokens \\(1000\\), got 100000"),
    ],
)
def test_bad_overrides_are_one_sentence(setting: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        recipe("tiny", [setting])


def test_phases_must_end_in_order(tiny_recipe: Recipe) -> None:
    with pytest.raises(DataError, match=r"the last at 1.0, got \[0.5\]"):
        replace(tiny_recipe, phases=(Phase(until=0.5),))
    with pytest.raises(DataError, match="rising"):
        replace(tiny_recipe, phases=(Phase(until=0.5), Phase(until=0.2), Phase()))


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(DataError, match="no recipe 'giant'; there are chats, nano"):
        recipe("giant")
    with pytest.raises(DataError, match="no recipe 'tiny' for sft; there are chats, nano-chats, nano-sft"):
        recipe("tiny", stage="sft")


def test_a_recipe_for_files_asks_for_them() -> None:
    with pytest.raises(DataError, match="chats reads files of yours: give --data FILE"):
        recipe("chats")
    assert recipe("chats", ['data=["a.jsonl"]']).shares == {DATA: 1.0}


def test_the_rate_warms_up_holds_and_falls() -> None:
    plan = recipe("nano", ["warmup_steps=10", "tokens=1000", "decay_from=0.5"])
    assert plan.rate(0, 0) == pytest.approx(plan.learning_rate / 10)
    assert plan.rate(50, 400) == plan.learning_rate
    assert plan.rate(1, 100) == plan.learning_rate  # a tenth of a short run is warm-up enough
    assert plan.rate(80, 750) == pytest.approx((plan.learning_rate + plan.final_learning_rate) / 2)
    assert plan.rate(99, 1000) == pytest.approx(plan.final_learning_rate)


def test_phases_follow_each_other() -> None:
    plan = recipe("nano", ["tokens=1000"])
    assert [plan.phase(t).max_difficulty for t in (0, 99, 100, 199, 999, 2000)] == [4, 4, 6, 8, 10, 10]
