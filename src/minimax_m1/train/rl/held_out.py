"""`HeldOut`: what answers are worth on prompts that are never learned from.

In: files of the user's, or the validation split of the task families. Out: the mean reward over all prompts, one
answer each, drawn at temperature 1 by seeds that never change, so that only the weights move it; and what failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.actor import Answer
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.prompt_family import FamilyPrompts
from minimax_m1.train.rl.prompt_jsonl import JsonlPrompts
from minimax_m1.train.rl.reward import RewardSet
from minimax_m1.train.rl.scoring import as_answers


class HeldOut:
    """`prompts`, in an order that never changes; empty where nothing is held out."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = tuple(prompts)

    @classmethod
    def of_files(cls, sources: Sequence[JsonlPrompts]) -> HeldOut:
        """Every row once."""
        return cls([source.draw(index, 0) for source in sources for index in range(source.rows)])

    @classmethod
    def of_families(
        cls, names: Sequence[str], tokenizer: MiniMaxM1Tokenizer, cases: int, seed: int, length: int, difficulty: int
    ) -> HeldOut:
        """So many examples of each family, of all difficulties in turn."""
        sources = [FamilyPrompts(name, tokenizer, seed, length, split="validation") for name in names]
        return cls([each.draw(index, 1 + index % difficulty) for each in sources for index in range(cases)])

    def measure(
        self, play: Callable[[Sequence[Prompt]], list[Answer]], rewards: RewardSet
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """ "held_out_reward", and "held_out_reward/SOURCE" where there are several; none where no reward was given.

        `play` gives the answers to prompts. An answer without a reward does not count; beside the figures stands what
        failed, each sentence once.
        """
        if not self.prompts:
            return {}, ()
        played = play(self.prompts)
        faults = [answer.fault for answer in played if answer.fault]
        answers = [answer for answer in played if not answer.fault]
        known: list[tuple[str, float]] = []
        if answers:
            scored = rewards.score(as_answers(answers))
            faults += [str(fault) for fault in scored.faults]
            totals = zip(answers, scored.total.tolist(), strict=True)
            known = [(answer.prompt.source, each) for answer, each in totals if not math.isnan(each)]
        names = dict.fromkeys(source for source, _ in known)
        figures = {f"held_out_reward/{name}": _mean([each for own, each in known if own == name]) for name in names}
        told = {"held_out_reward": _mean([each for _, each in known]), **(figures if len(figures) > 1 else {})}
        return {name: value for name, value in told.items() if not math.isnan(value)}, tuple(dict.fromkeys(faults))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
