"""The rewards that a recipe names, ready to grade.

    family            1 where the task family's verifier accepts the answer
    format            1 for an answer in good form, right or wrong
    environment       what an environment says at the end of a conversation
    agreement         a judge's grade of the answer beside the known one, 0 to 1
    preference        a judge's choice between the answer and a reference answer, -1, 0 or 1
    FILE.py:NAME      a function of the user's

In: a recipe; each name may end in `=WEIGHT`. Out: a `RewardSet`. A judge is asked at the recipe's `judge_url`, with the
key that MINIMAX_M1_JUDGE_KEY holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from minimax_m1.errors import DataError
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.reward import Answers, Reward, RewardSet
from minimax_m1.train.rl.reward_family import family_reward, format_reward
from minimax_m1.train.rl.reward_file import reward_of, weight_of


def rewards_of(recipe: RLRecipe) -> RewardSet:
    """The recipe's rewards; those of files have started their processes.

    Raises DataError: a name that is none, a weight that is no number, or what a file has wrong.
    """
    rewards: list[Reward] = []
    try:
        for text in recipe.rewards:
            rewards.append(_reward(text, recipe))
        return RewardSet(rewards)
    except BaseException:
        for reward in rewards:
            reward.close()
        raise


def _reward(text: str, recipe: RLRecipe) -> Reward:
    name, equals, weight = text.partition("=")
    made: dict[str, Callable[[], Reward]] = {
        "family": family_reward,
        "format": format_reward,
        "environment": lambda: _environment(recipe),
        "agreement": lambda: _judge(recipe, "agreement"),
        "preference": lambda: _judge(recipe, "preference"),
    }
    if name not in made:
        if ".py" not in name:
            raise DataError(f"no reward {name!r}; there are {', '.join(made)} and FILE.py:NAME")
        return reward_of(text, timeout=recipe.reward_seconds)
    reward = made[name]()
    return replace(reward, weight=weight_of(text, weight)) if equals else reward


def _environment(recipe: RLRecipe) -> Reward:
    if not recipe.environment:
        raise DataError("the reward environment is what an environment says: give --environment FILE.py")

    def grade(answers: Answers) -> list[float | None]:
        return list(answers.columns["environment_reward"])

    return Reward(name="environment", grade=grade)


def _judge(recipe: RLRecipe, kind: str) -> Reward:
    if not recipe.judge_url or not recipe.judge_model:
        raise DataError(f"the reward {kind} asks a judge: set judge_url and judge_model")
    try:
        from minimax_m1.train.rl.judge import Judge, agreement_reward, preference_reward
    except ImportError:
        raise DataError("a judge needs the extra: pip install 'minimax-m1[serve]'") from None
    key = os.environ.get("MINIMAX_M1_JUDGE_KEY")
    judge = Judge(recipe.judge_url, recipe.judge_model, api_key=key, patience=recipe.reward_seconds)
    return agreement_reward(judge) if kind == "agreement" else preference_reward(judge)
