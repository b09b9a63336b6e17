"""Held-out prompts: what is told of them, and what fails on them."""

from __future__ import annotations

from collections.abc import Sequence

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.actor import Answer
from minimax_m1.train.rl.held_out import HeldOut
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.reward import Answers, Reward, RewardSet

PROMPT = Prompt(source="data", level=0, asked="x", tools=(), ids=[1], columns={}, place="a:1")


def play(prompts: Sequence[Prompt]) -> list[Answer]:
    return [
        Answer(prompt=prompt, group=n, ids=[1, 2], own=[False, True], logprobs=[0.0, -1.0])
        for n, prompt in enumerate(prompts)
    ]


def test_what_fails_on_held_out_prompts_is_said_once() -> None:
    def grade(answers: Answers) -> list[float | None]:
        raise KeyError("price")

    figures, faults = HeldOut([PROMPT] * 3).measure(play, RewardSet([Reward(name="mine", grade=grade)]))
    assert figures == {} and len(faults) == 1 and "KeyError" in faults[0]


def test_answers_without_a_reward_do_not_count() -> None:
    reward = Reward(name="mine", grade=lambda answers: [1.0, None, 0.5])
    figures, faults = HeldOut([PROMPT] * 3).measure(play, RewardSet([reward]))
    assert figures == {"held_out_reward": 0.75} and not faults


def test_nothing_held_out_is_nothing_measured() -> None:
    figures, faults = HeldOut([]).measure(play, RewardSet([Reward(name="mine", grade=lambda answers: [])]))
    assert figures == {} and not faults


def test_prompts_of_families_come_from_the_validation_split_and_stay_the_same() -> None:
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    made = [HeldOut.of_families(["sums", "strings"], tokenizer, 4, 0, 500, 3).prompts for _ in range(2)]
    assert made[0] == made[1] and len(made[0]) == 8
    assert [prompt.level for prompt in made[0]] == [1, 2, 3, 1] * 2
