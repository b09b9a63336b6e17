"""`Collector`: one batch of rollouts, from prompts to advantages.

In: an actor, a curriculum, rewards, the recipe, the number of the batch. Out: `Collected`: a `RolloutBatch` of the
groups that teach something, figures, and what there is to say. Groups whose answers are all worth the same are
replaced by new prompts for some rounds (dynamic sampling, DAPO, arXiv 2503.14476); answers without a reward are left
out; a batch in which nothing has one is lost, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from minimax_m1.engine.request import FinishReason
from minimax_m1.train.rl.actor import Actor, Answer
from minimax_m1.train.rl.curriculum import Curriculum
from minimax_m1.train.rl.environment import Environments
from minimax_m1.train.rl.output_length import OutputLength
from minimax_m1.train.rl.policy_loss import group_advantages, overlong_penalty
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.reward import RewardSet
from minimax_m1.train.rl.reward_length import LengthBias
from minimax_m1.train.rl.rollout import RolloutBatch
from minimax_m1.train.rl.scoring import as_answers


@dataclass(slots=True, eq=False, kw_only=True)
class Group:
    """The answers to one prompt, with what each is worth: rewards, then the length penalty added."""

    answers: list[Answer]
    rewards: list[float]
    worth: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """`rollouts` is None where nothing can be learned. `said`: lines for the user. `groups`: all that were drawn."""

    rollouts: RolloutBatch | None
    figures: dict[str, float]
    said: tuple[str, ...]
    groups: tuple[Group, ...] = field(repr=False)


class Collector:
    """Draws, samples, grades and chooses; remembers how long answers may be and what lengths rewards prefer."""

    def __init__(
        self,
        recipe: RLRecipe,
        actor: Actor,
        curriculum: Curriculum,
        rewards: RewardSet,
        environments: Environments | None = None,
    ) -> None:
        self._recipe, self._actor, self._curriculum = recipe, actor, curriculum
        self._rewards, self._environments = rewards, environments
        self._length = OutputLength(recipe.output_lengths)
        self._bias = LengthBias()

    def collect(self, number: int, progress: float) -> Collected:
        """Batch `number`, at this share of the run; the same for the same weights and `state`."""
        recipe, begun = self._recipe, time.monotonic()
        groups: list[Group] = []
        kept: list[Group] = []
        said: dict[str, None] = {}  # in order, each once
        parts: dict[str, list[float]] = {}
        for round_ in range(1 + recipe.refills):
            if len(kept) >= recipe.prompts:
                break
            fresh, faults = self._round(f"{recipe.seed}/{number}/{round_}", recipe.prompts - len(kept), progress, parts)
            said |= dict.fromkeys(faults)
            groups += fresh
            kept += [group for group in fresh if _teaches(group)]
            if not any(group.answers for group in fresh):  # a reward that fails now fails in the next round too
                break
        answers = [answer for group in groups for answer in group.answers]
        figures = {
            "reward": _mean(reward for group in groups for reward in group.rewards),
            **{f"reward/{name}": _mean(values) for name, values in parts.items()},
            "pass_rate": _mean(float(self._passed(reward)) for group in groups for reward in group.rewards),
            "groups": float(len(groups)),
            "groups_kept": float(len(kept)),
            **_lengths(answers),
            "output_length": float(self._length.tokens),
            "played_tokens": float(_played(groups)),
            "rollout_seconds": time.monotonic() - begun,
            **self._curriculum.figures(),
        }
        figures["sampled_tokens_per_second"] = sum(each.length for each in answers) / figures["rollout_seconds"]
        if warning := self._watch(groups):
            said[warning] = None
        if not math.isnan(self._bias.correlation):
            figures["length_bias"] = self._bias.correlation
        if answers and self._length.learn(figures["length_p99"], figures["perplexity"]):
            said[f"answers may be {self._length.tokens} tokens long from here on"] = None
        told = {name: value for name, value in figures.items() if not math.isnan(value)}
        return Collected(
            rollouts=_packed(kept, recipe.mask_truncated), figures=told, said=tuple(said), groups=tuple(groups)
        )

    def _round(
        self, seed: str, count: int, progress: float, parts: dict[str, list[float]]
    ) -> tuple[list[Group], list[str]]:
        """Groups of so many new prompts, and what failed; adds to `parts` the rewards by name."""
        recipe = self._recipe
        prompts = [self._curriculum.draw(progress) for _ in range(count)]
        answers = self._actor.play(
            prompts,
            recipe.group,
            seed=seed,
            max_tokens=self._length.tokens,
            repetition_window=recipe.repetition_window,
            environments=self._environments,
            turns=recipe.turns if self._environments else 1,
        )
        faults = [answer.fault for answer in answers if answer.fault]
        usable = [answer for answer in answers if not answer.fault]
        if not usable:
            return [], faults
        scored = self._rewards.score(as_answers(usable))
        faults += [str(fault) for fault in scored.faults]
        for name, values in scored.by_reward.items():
            parts.setdefault(name, []).extend(values[~np.isnan(values)].tolist())
        groups = [Group(answers=[], rewards=[], worth=[]) for _ in prompts]
        for answer, reward in zip(usable, scored.total.tolist(), strict=True):
            if not math.isnan(reward):
                group = groups[answer.group]
                group.answers.append(answer)
                group.rewards.append(reward)
                group.worth.append(reward + self._penalty(answer))
        for prompt, group in zip(prompts, groups, strict=True):
            if group.rewards:
                passed = sum(map(self._passed, group.rewards))
                self._curriculum.learn(prompt, passed / len(group.rewards))
        return groups, faults

    def _passed(self, reward: float) -> bool:
        """Whether an answer has passed; 0.7 + 0.2 + 0.1 is a little less than 1, and means it."""
        return reward > self._recipe.pass_reward or math.isclose(reward, self._recipe.pass_reward)

    def _penalty(self, answer: Answer) -> float:
        most = self._length.tokens
        return overlong_penalty(answer.length, most, round(self._recipe.overlong_share * most))

    def _watch(self, groups: Sequence[Group]) -> str | None:
        flat = [
            (reward, answer.length, number)
            for number, group in enumerate(groups)
            for reward, answer in zip(group.rewards, group.answers, strict=True)
        ]
        return self._bias.update([each[0] for each in flat], [each[1] for each in flat], [each[2] for each in flat])

    def state(self) -> dict[str, Any]:
        """JSON values from which `load` goes on."""
        return {
            "curriculum": self._curriculum.state(),
            "output_length": self._length.state(),
            "length_bias": self._bias.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken. Raises DataError as `Curriculum.load`."""
        self._curriculum.load(state["curriculum"])
        self._length.load(state["output_length"])
        self._bias = LengthBias(told=state["length_bias"])


def _teaches(group: Group) -> bool:
    """Whether its answers differ in worth; then every one of them has an advantage or stands for the mean."""
    return len(group.worth) > 1 and bool(_advantages([group]).any())


def _advantages(groups: Sequence[Group]) -> torch.Tensor:
    """Eq. 2 of the report, in the order of the answers."""
    worth = torch.tensor([worth for group in groups for worth in group.worth], dtype=torch.float64)
    which = torch.tensor([number for number, group in enumerate(groups) for _ in group.worth])
    return group_advantages(worth, which)


def _packed(groups: Sequence[Group], mask_truncated: bool) -> RolloutBatch | None:
    """All answers of the groups, but those that were cut where these are not to be learned; None if none is left."""
    answers = [(number, answer) for number, group in enumerate(groups) for answer in group.answers]
    advantages = _advantages(groups).tolist() if answers else []
    learned = [
        (number, answer, advantage)
        for (number, answer), advantage in zip(answers, advantages, strict=True)
        if not (mask_truncated and answer.finish is FinishReason.LENGTH)
    ]
    if not learned:
        return None
    return RolloutBatch(
        ids=torch.tensor([token for _, answer, _ in learned for token in answer.ids]),
        own=torch.tensor([own for _, answer, _ in learned for own in answer.own]),
        logprobs=torch.tensor([logprob for _, answer, _ in learned for logprob in answer.logprobs]),
        lengths=torch.tensor([len(answer.ids) for _, answer, _ in learned]),
        groups=torch.tensor([number for number, _, _ in learned]),
        advantages=torch.tensor([advantage for _, _, advantage in learned]),
    )


def _played(groups: Sequence[Group]) -> int:
    """Tokens that went through the actor: a prompt once for all of its answers."""
    prompts = sum(len(group.answers[0].prompt.ids) for group in groups if group.answers)
    return prompts + sum(len(a.ids) - len(a.prompt.ids) for group in groups for a in group.answers)


def _lengths(answers: Sequence[Answer]) -> dict[str, float]:
    """How long and how sure answers are, and how they ended; nothing where there are none."""
    if not answers:
        return {}
    lengths = np.array([answer.length for answer in answers], np.float64)
    surprise = -sum(sum(answer.logprobs) for answer in answers) / max(1.0, float(lengths.sum()))
    ends = [answer.finish for answer in answers]
    return {
        "length": float(lengths.mean()),
        "length_p50": float(np.percentile(lengths, 50)),
        "length_p99": float(np.percentile(lengths, 99)),
        "perplexity": math.exp(surprise),
        "cut_share": ends.count(FinishReason.LENGTH) / len(ends),
        "repetition_share": ends.count(FinishReason.REPETITION) / len(ends),
    }


def _mean(values: Any) -> float:
    some = list(values)
    return math.fsum(some) / len(some) if some else math.nan
