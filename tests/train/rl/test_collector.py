"""A batch of rollouts in small, with answers and rewards by script: which groups teach, and what a failure costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.request import FinishReason
from minimax_m1.train.rl.actor import Actor, Answer
from minimax_m1.train.rl.collector import Collector
from minimax_m1.train.rl.curriculum import Curriculum
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.reward import Answers, Flaw, Reward, RewardSet

PLAN = RLRecipe(
    name="fake",
    start="none",
    shares={"strings": 1.0},
    prompts=2,
    group=3,
    refills=2,
    output_lengths=(10,),
    overlong_share=0.0,
    context=64,
    batch_tokens=64,
    adaptive=False,
)


class Rows:
    """Prompts that are nothing but their numbers."""

    name, levels = "strings", (1, 2)

    def draw(self, index: int, level: int) -> Prompt:
        return Prompt(
            source=self.name,
            level=level,
            asked=[{"role": "user", "content": str(index)}],
            tools=(),
            ids=[1, index],
            columns={"index": index},
            place=f"rows/{index}",
        )


class Script:
    """Answers as `tell` says: from a prompt's index and the answer's number to its length and what changes in it."""

    def __init__(self, tell: Callable[[int, int], tuple[int, dict[str, Any]]]) -> None:
        self.tell, self.asked = tell, list[dict[str, Any]]()

    def play(self, prompts: Sequence[Prompt], group: int, **asked: Any) -> list[Answer]:
        self.asked.append({"count": len(prompts), **asked})
        answers = []
        for number, prompt in enumerate(prompts):
            for member in range(group):
                length, changes = self.tell(prompt.columns["index"], member)
                answer = Answer(
                    prompt=prompt,
                    group=number,
                    ids=[*prompt.ids, *[7] * length],
                    own=[False] * 2 + [True] * length,
                    logprobs=[0.0] * 2 + [-0.5] * length,
                    added=[{"role": "assistant", "content": str(member)}],
                )
                for name, value in changes.items():
                    setattr(answer, name, value)
                answers.append(answer)
        return answers


Grade = Callable[[Answers], Sequence[Any]]


def collector(
    plan: RLRecipe, grade: Grade, tell: Callable[[int, int], tuple[int, dict[str, Any]]] = lambda index, member: (4, {})
) -> tuple[Collector, Script, Curriculum]:
    script = Script(tell)
    rows = Curriculum([Rows()], plan.shares, seed=0, max_difficulty=2, adaptive=False)
    rewards = RewardSet([Reward(name="mine", grade=grade)])
    return Collector(plan, cast(Actor, script), rows, rewards), script, rows


def member(answers: Answers) -> list[float]:
    """The answer's number in its group, so that every group teaches."""
    return [float(completion[0]["content"]) for completion in answers.completions if not isinstance(completion, str)]


def third(answers: Answers) -> list[float]:
    """Every third prompt's group teaches, others do not."""
    return [own * (index % 3 == 0) for own, index in zip(member(answers), answers.columns["index"], strict=True)]


def test_advantages_are_those_of_equation_2() -> None:
    own, script, _ = collector(PLAN, member)
    batch = own.collect(0, 0.0).rollouts
    assert batch is not None and script.asked[0]["max_tokens"] == 10 and len(script.asked) == 1
    expected = torch.tensor([-1.0, 0.0, 1.0] * 2)  # 0, 1, 2 have the mean 1 and, by n - 1, the deviation 1
    torch.testing.assert_close(batch.advantages, expected, atol=1e-3, rtol=0)
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 1] and batch.lengths.tolist() == [6] * 6
    assert batch.own[:6].tolist() == [False, False, True, True, True, True]
    assert batch.logprobs[:6].tolist() == [0, 0, -0.5, -0.5, -0.5, -0.5]


def test_groups_of_equal_worth_are_replaced_by_new_prompts() -> None:
    own, script, _ = collector(replace(PLAN, refills=9), third)
    collected = own.collect(0, 0.0)
    assert [each["count"] for each in script.asked] == [2, 1, 1]  # 0 teaches, 1 and 2 do not, 3 does
    assert collected.rollouts is not None and set(collected.rollouts.groups.tolist()) == {0, 1}
    assert {int(ids[1]) for ids in collected.rollouts.ids.split(6)} == {0, 3}
    assert collected.figures["groups_kept"] == 2 and collected.figures["groups"] == len(collected.groups) == 4
    assert len({each["seed"] for each in script.asked}) == len(script.asked), "a round of its own has seeds of its own"
    first = script.asked[0]["seed"]
    own.collect(1, 0.5)
    assert all(each["seed"] != first for each in script.asked[1:])


def test_refills_end_and_what_there_is_is_learned() -> None:
    own, script, _ = collector(replace(PLAN, refills=1, prompts=3), third)
    collected = own.collect(0, 0.0)
    assert [each["count"] for each in script.asked] == [3, 2] and collected.figures["groups_kept"] == 2
    assert collected.rollouts is not None and len(collected.rollouts) == 6


def test_where_nothing_tells_answers_apart_there_is_no_batch_and_no_complaint() -> None:
    own, script, _ = collector(PLAN, lambda answers: [1.0] * len(answers))
    collected = own.collect(0, 0.0)
    assert collected.rollouts is None and collected.said == () and len(script.asked) == 3
    assert collected.figures["reward"] == collected.figures["pass_rate"] == 1 and collected.figures["groups_kept"] == 0


def test_a_perfect_answer_passes_whatever_its_parts_sum_up_to_in_binary() -> None:
    assert 0.7 + 0.2 + 0.1 < 1
    own, _, _ = collector(PLAN, lambda answers: [0.7 + 0.2 + 0.1] * len(answers))
    assert own.collect(0, 0.0).figures["pass_rate"] == 1


def test_rewards_that_differ_by_rounding_alone_teach_nothing() -> None:
    own, _, _ = collector(PLAN, lambda answers: [0.1 + 0.2 if one else 0.3 for one in member(answers)])
    assert own.collect(0, 0.0).rollouts is None


def test_an_overlong_answer_is_worth_less_but_has_passed() -> None:
    plan = replace(PLAN, overlong_share=0.4, refills=0)
    own, _, _ = collector(plan, lambda answers: [1.0] * len(answers), lambda index, member: (6 + 2 * member, {}))
    collected = own.collect(0, 0.0)
    assert collected.figures["reward"] == collected.figures["pass_rate"] == 1
    assert collected.groups[0].worth == pytest.approx([1.0, 0.5, 0.0]), "6, 8 and 10 of 10 tokens, the last 4 cost"
    assert collected.rollouts is not None and collected.rollouts.advantages[0] > 0 > collected.rollouts.advantages[2]


def test_answers_that_were_cut_still_set_the_mean_when_they_are_masked() -> None:
    def tell(index: int, member: int) -> tuple[int, dict[str, Any]]:
        return 4, {"finish": FinishReason.LENGTH} if member == 0 else {}

    whole, masked = (collector(replace(PLAN, mask_truncated=mask), member, tell)[0] for mask in (False, True))
    all_of_them, others = whole.collect(0, 0.0).rollouts, masked.collect(0, 0.0).rollouts
    assert all_of_them is not None and others is not None and len(others) == 4
    assert torch.equal(others.advantages, all_of_them.advantages[[1, 2, 4, 5]])
    cut, _, _ = collector(
        replace(PLAN, mask_truncated=True), member, lambda index, member: (4, {"finish": FinishReason.LENGTH})
    )
    collected = cut.collect(0, 0.0)
    assert collected.rollouts is None and collected.figures["cut_share"] == 1


def test_answers_without_a_reward_are_left_out_and_the_others_learned() -> None:
    own, _, _ = collector(PLAN, lambda answers: [None if one == 1 else one for one in member(answers)])
    collected = own.collect(0, 0.0)
    assert collected.rollouts is not None and len(collected.rollouts) == 4 and collected.said == ()
    assert collected.figures["reward"] == 1
    alone, script, _ = collector(PLAN, lambda answers: [one if one == 1 else None for one in member(answers)])
    assert alone.collect(0, 0.0).rollouts is None and len(script.asked) == 3, "one answer is no group"


def raising(answers: Answers) -> list[float]:
    raise ValueError("no idea")


@pytest.mark.parametrize("grade", [raising, lambda answers: [float("nan")] * len(answers), lambda answers: [1.0]])
def test_a_reward_that_fails_costs_the_batch_and_is_not_asked_again(grade: Grade) -> None:
    own, script, rows = collector(PLAN, grade)
    collected = own.collect(0, 0.0)
    assert collected.rollouts is None and len(script.asked) == 1
    assert len(collected.said) == 1 and "6 of 6 answers have no reward" in collected.said[0]
    assert "reward" not in collected.figures and "pass_rate" not in collected.figures
    assert not any(name.startswith("pass_rate") for name in rows.figures()), "nothing was learned of the prompts either"


def test_one_bad_answer_costs_itself() -> None:
    def grade(answers: Answers) -> list[Any]:
        return [Flaw(error="KeyError", message="x", place="my.py:3") if one == 2 else one for one in member(answers)]

    own, _, _ = collector(PLAN, grade)
    collected = own.collect(0, 0.0)
    assert collected.rollouts is not None and len(collected.rollouts) == 4
    assert "mine at my.py:3: KeyError: x; 2 of 6 answers" in collected.said[0] and len(collected.said) == 1


def test_a_conversation_whose_world_failed_is_told_once_and_left_out() -> None:
    def tell(index: int, member: int) -> tuple[int, dict[str, Any]]:
        return 4, {"fault": "my_env.py:3: World is gone"} if member == 0 else {}

    own, script, _ = collector(PLAN, member, tell)
    collected = own.collect(0, 0.0)
    assert collected.said == ("my_env.py:3: World is gone",) and len(script.asked) == 1
    assert collected.rollouts is not None and len(collected.rollouts) == 4
    lost, script, _ = collector(PLAN, member, lambda index, member: (4, {"fault": "my_env.py:3: World is gone"}))
    collected = lost.collect(0, 0.0)
    assert collected.rollouts is None and len(script.asked) == 1 and len(collected.said) == 1


def test_the_curriculum_learns_which_part_of_a_group_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(Curriculum, "learn", lambda self, prompt, passed: told.append(passed))
    plan = replace(PLAN, pass_reward=2.0, overlong_share=1.0)
    own, _, _ = collector(plan, member)
    assert own.collect(0, 0.0).figures["pass_rate"] == pytest.approx(1 / 3) and told == [1 / 3, 1 / 3]


def test_rewards_are_summed_by_weight_and_logged_apart() -> None:
    script = Script(lambda index, member: (4, {}))
    rows = Curriculum([Rows()], PLAN.shares, seed=0, max_difficulty=2, adaptive=False)
    short = Reward(
        name="short", grade=lambda answers: [None if one == 0 else -one for one in member(answers)], weight=3
    )
    collected = Collector(
        PLAN, cast(Actor, script), rows, RewardSet([Reward(name="own", grade=member), short])
    ).collect(0, 0.0)
    assert collected.groups[0].rewards == [0, -2, -4]
    assert collected.figures["reward/own"] == 1 and collected.figures["reward/short"] == -1.5
    assert collected.figures["reward"] == -2


def test_answers_may_grow_once_they_fill_their_room_and_no_longer_change() -> None:
    own, script, _ = collector(replace(PLAN, output_lengths=(4, 8)), member)
    said = [line for number in range(12) for line in own.collect(number, 0.0).said]
    assert [each["max_tokens"] for each in script.asked] == [4] * 10 + [8] * 2
    assert said == ["answers may be 8 tokens long from here on"]


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(0, 3))
def test_a_collector_goes_on_from_its_state(before: int, seed: int) -> None:
    def grade(answers: Answers) -> list[float]:
        return [random.Random(f"{seed}/{i}/{m}").choice([0.0, 1.0]) for i, m in _where(answers)]

    def tell(index: int, member: int) -> tuple[int, dict[str, Any]]:
        return 4 if (index + member) % 3 else 2, {}

    plan = replace(PLAN, output_lengths=(4, 8), adaptive=True)
    own, again = (collector(plan, grade, tell)[0] for _ in range(2))
    for number in range(before):
        own.collect(number, 0.5)
    again.load(own.state())
    for number in range(before, before + 3):
        mine, theirs = own.collect(number, 0.5), again.collect(number, 0.5)
        for name in ("rollout_seconds", "sampled_tokens_per_second"):
            del mine.figures[name], theirs.figures[name]
        assert mine.figures == theirs.figures and mine.said == theirs.said
        assert [g.rewards for g in mine.groups] == [g.rewards for g in theirs.groups]
        assert own.state() == again.state()


def _where(answers: Answers) -> list[tuple[int, float]]:
    return list(zip(answers.columns["index"], member(answers), strict=True))
