"""The curriculum: shares that move, difficulty that follows skill, a filter that forgets nothing, exact resume."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.train.rl.curriculum import Curriculum
from minimax_m1.train.rl.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Fake:
    """A source of empty prompts; one without levels gives each of `rows` places once an epoch."""

    name: str
    levels: Sequence[int] = range(1, 11)
    rows: int = 0

    def draw(self, index: int, level: int) -> Prompt:
        assert level in self.levels if self.levels else level == 0
        place = f"{self.name}/{index}"
        if self.rows:
            epoch, at = divmod(index, self.rows)
            place = f"{self.name}:{random.Random(f'{epoch}/{self.rows}').sample(range(self.rows), self.rows)[at]}"
        return Prompt(source=self.name, level=level, asked="", tools=(), ids=[0], columns={}, place=place)


def rows(count: int) -> Fake:
    return Fake("data", (), count)


def alone(source: Fake, *, max_difficulty: int = 10, easy: float = 0.9, seed: int = 0) -> Curriculum:
    return Curriculum([source], {source.name: 1.0}, seed=seed, max_difficulty=max_difficulty, easy=easy)


def run(curriculum: Curriculum, rate: Callable[[Prompt], float], draws: int, batch: int = 16) -> list[Prompt]:
    """Prompts in batches, each learned from when its batch is done, as a run does."""
    drawn: list[Prompt] = []
    for _ in range(draws // batch):
        prompts = [curriculum.draw(0.0) for _ in range(batch)]
        for prompt in prompts:
            curriculum.learn(prompt, rate(prompt))
        drawn += prompts
    return drawn


def learner(skill: float) -> Callable[[Prompt], float]:
    """Passes half of what is as hard as its skill is high, in groups of eight."""
    rng = random.Random(0)

    def rate(prompt: Prompt) -> float:
        chance = 1 / (1 + math.exp(1.5 * (prompt.level - skill)))
        return float(sum(rng.random() < chance for _ in range(8))) / 8

    return rate


def mean_level(drawn: Sequence[Prompt]) -> float:
    return sum(prompt.level for prompt in drawn) / len(drawn)


def of_level(drawn: Sequence[Prompt], level: int) -> float:
    """The part of the prompts that is of this level."""
    return sum(prompt.level == level for prompt in drawn) / len(drawn)


# Shares ------------------------------------------------------------------------------------------


def test_shares_move_in_a_line_from_first_to_final() -> None:
    sources = [Fake("a"), Fake("b"), Fake("c")]
    curriculum = Curriculum(
        sources, {"a": 0.8, "b": 0.2, "c": 0.0}, final_shares={"a": 0.0, "b": 0.2, "c": 0.8}, seed=0
    )
    for progress in (0.0, 0.25, 1.0):
        counts = Counter(curriculum.draw(progress).source for _ in range(800))
        for name, first, final in (("a", 0.8, 0.0), ("b", 0.2, 0.2), ("c", 0.0, 0.8)):
            share = first + progress * (final - first)
            assert abs(counts[name] / 800 - share) <= (0.06 if share else 0)


def test_without_final_shares_they_stay() -> None:
    finals: tuple[dict[str, float] | None, ...] = (None, {})
    for final in finals:
        curriculum = Curriculum([Fake("a"), Fake("b")], {"a": 1.0, "b": 0.0}, final_shares=final, seed=0)
        assert {curriculum.draw(1.0).source for _ in range(50)} == {"a"}


def test_a_source_may_be_named_at_one_end_alone() -> None:
    curriculum = Curriculum([Fake("b"), Fake("a")], {"a": 1.0}, final_shares={"b": 1.0}, seed=0)
    for progress, name in ((0.0, "a"), (1.0, "b")):
        assert {curriculum.draw(progress).source for _ in range(50)} == {name}


def test_the_order_of_sources_means_nothing() -> None:
    shares = {"a": 0.3, "b": 0.7}
    one = Curriculum([Fake("a"), Fake("b")], shares, seed=0)
    other = Curriculum([Fake("b"), Fake("a")], dict(reversed(shares.items())), seed=0)
    assert [one.draw(0.0) for _ in range(20)] == [other.draw(0.0) for _ in range(20)]


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ({"a": 1.0, "b": 0.0}, "shares are of a, b, sources are a"),
        ({"a": 0.9}, "shares must be 0 or more and sum to 1"),
        ({"a": math.nan}, "shares must be 0 or more and sum to 1"),
    ],
)
def test_shares_that_fit_no_sources_are_refused(shares: dict[str, float], what: str) -> None:
    with pytest.raises(DataError, match=what):
        Curriculum([Fake("a")], shares, seed=0)
    with pytest.raises(DataError, match=what):
        Curriculum([Fake("a")], {"a": 1.0}, final_shares=shares, seed=0)


def test_a_source_without_a_share_is_refused() -> None:
    with pytest.raises(DataError, match="shares are of none, sources are a"):
        Curriculum([Fake("a")], {}, seed=0)


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="a has no difficulty of at most 0; it begins at 1"):
        alone(Fake("a"), max_difficulty=0)
    for easy in (0.0, 1.5, math.nan):
        with pytest.raises(DataError, match=r"easy must be a pass rate of more than 0\.02 and at most 1"):
            alone(Fake("a"), easy=easy)


# Difficulty --------------------------------------------------------------------------------------


def test_a_run_begins_with_the_easiest_levels() -> None:
    curriculum = alone(Fake("a"))
    assert {curriculum.draw(0.0).level for _ in range(50)} == {1, 2}


def test_difficulty_rises_with_skill_and_falls_back_with_it() -> None:
    curriculum = alone(Fake("a"))
    means = []
    for skill in (1.0, 3.0, 5.0, 7.0):
        rate = learner(skill)
        run(curriculum, rate, 160)
        means.append(mean_level(run(curriculum, rate, 160)))
    assert all(low + 1 < high for low, high in pairwise(means)), means
    assert abs(means[2] - 5) < 1, means  # most of what is drawn is what half of the answers pass
    rate = learner(2.0)
    run(curriculum, rate, 320)
    assert mean_level(run(curriculum, rate, 160)) < means[1], "it did not fall back"


def test_no_level_is_drawn_far_ahead_of_what_is_known() -> None:
    curriculum = alone(Fake("a"))
    drawn = run(curriculum, lambda prompt: 0.6 if prompt.level <= 3 else 0.3, 800)
    assert {prompt.level for prompt in drawn} == {1, 2, 3, 4, 5}


def test_a_learner_who_knows_all_reaches_the_hardest_level_in_a_few_batches() -> None:
    curriculum = alone(Fake("a"), max_difficulty=8)
    drawn = run(curriculum, lambda prompt: 1.0, 16 * 8)
    assert max(prompt.level for prompt in drawn) == 8


def test_nothing_goes_beyond_the_most_that_is_allowed() -> None:
    drawn = run(alone(Fake("a"), max_difficulty=3), lambda prompt: 0.8, 160)
    assert {prompt.level for prompt in drawn} == {1, 2, 3}


def test_levels_that_all_or_nobody_passes_are_rare_but_never_forgotten() -> None:
    curriculum = alone(Fake("a"))
    rates = {1: 1.0, 2: 0.7, 3: 0.5, 4: 0.0, 5: 0.0}
    run(curriculum, lambda prompt: rates[prompt.level], 800)
    drawn = run(curriculum, lambda prompt: rates[prompt.level], 1600)
    outside = of_level(drawn, 1) + of_level(drawn, 4) + of_level(drawn, 5)
    assert 0.05 < outside < 0.15
    assert min(of_level(drawn, level) for level in rates) > 0.01
    assert of_level(drawn, 3) > of_level(drawn, 2)  # 0.5 * 0.5 is more than 0.7 * 0.3


def test_a_group_that_fails_is_no_reason_to_give_up_a_level() -> None:
    curriculum = alone(Fake("a"))
    first = next(prompt for prompt in iter(lambda: curriculum.draw(0.0), None) if prompt.level == 2)
    curriculum.learn(first, 0.0)
    assert of_level([curriculum.draw(0.0) for _ in range(200)], 2) > 0.25


def measured(curriculum: Curriculum, level: int, *passed: float) -> None:
    """Groups of one level, whatever the curriculum would have drawn."""
    for value in passed:
        curriculum.learn(Fake("a").draw(0, level), value)


def test_levels_that_nobody_measured_are_guessed_from_the_nearest_that_was() -> None:
    above = alone(Fake("a"))
    measured(above, 1, *[1.0] * 10)
    assert of_level([above.draw(0.0) for _ in range(200)], 1) < 0.2  # too easy, but a harder one need not be
    below = alone(Fake("a"), max_difficulty=2)
    measured(below, 2, *[0.0] * 30)
    assert of_level([below.draw(0.0) for _ in range(200)], 2) < 0.2  # too hard, but an easier one need not be


def test_a_level_is_judged_by_some_ten_groups() -> None:
    curriculum = alone(Fake("a"), max_difficulty=3)
    measured(curriculum, 2, *[0.5] * 20, 1.0, 1.0)
    assert of_level([curriculum.draw(0.0) for _ in range(200)], 2) > 0.25
    measured(curriculum, 2, *[1.0] * 20)
    assert of_level([curriculum.draw(0.0) for _ in range(200)], 2) < 0.15


def test_where_every_level_is_outside_the_filter_all_in_reach_are_drawn() -> None:
    curriculum = alone(Fake("a"), max_difficulty=4)
    drawn = run(curriculum, lambda prompt: 1.0, 640)[-320:]
    assert all(of_level(drawn, level) > 0.1 for level in (1, 2, 3, 4))


def test_sources_are_measured_apart() -> None:
    curriculum = Curriculum([Fake("a"), Fake("b")], {"a": 0.5, "b": 0.5}, seed=0)
    drawn = run(curriculum, lambda prompt: 0.8 if prompt.source == "a" else 0.1, 320)
    assert {prompt.level for prompt in drawn if prompt.source == "b"} == {1, 2}
    assert max(prompt.level for prompt in drawn if prompt.source == "a") == 10


# Rows --------------------------------------------------------------------------------------------


def test_every_row_is_drawn_before_any_is_passed_over() -> None:
    drawn = run(alone(rows(48)), lambda prompt: 0.0, 48)
    assert len({prompt.place for prompt in drawn}) == 48


def test_rows_outside_the_filter_are_rare_but_never_forgotten() -> None:
    def rate(prompt: Prompt) -> float:
        return (0.0, 0.5, 1.0, 0.9)[int(prompt.place.partition(":")[2]) % 4]

    curriculum = alone(rows(48))
    run(curriculum, rate, 48)
    drawn = run(curriculum, rate, 4800)
    counts = Counter(rate(prompt) for prompt in drawn)
    assert counts[0.5] / 4800 > 0.85
    assert len({prompt.place for prompt in drawn}) == 48


def test_a_row_comes_back_when_its_answers_begin_to_vary() -> None:
    curriculum = alone(rows(2))
    run(curriculum, lambda prompt: 0.5 if prompt.place == "data:0" else 0.0, 160)
    before = run(curriculum, lambda prompt: 0.5, 160)
    after = run(curriculum, lambda prompt: 0.5, 160)
    share = Counter(prompt.place for prompt in after)["data:1"] / 160
    assert Counter(prompt.place for prompt in before[:16])["data:1"] < 8 and 0.4 < share < 0.6


def test_the_latest_visits_of_a_row_count_most() -> None:
    curriculum = alone(rows(2))
    prompts = {prompt.place: prompt for prompt in (rows(2).draw(index, 0) for index in range(2))}
    curriculum.learn(prompts["data:1"], 0.5)
    for passed in (0.5, 1.0, 1.0):
        curriculum.learn(prompts["data:0"], passed)
    drawn = Counter(curriculum.draw(0.0).place for _ in range(200))
    assert 0 < drawn["data:0"] < 40


@pytest.mark.parametrize("passed", [0.0, 1.0])
def test_where_every_row_is_outside_the_filter_some_row_is_drawn(passed: float) -> None:
    curriculum = alone(rows(5))
    drawn = run(curriculum, lambda prompt: passed, 320)
    assert len({prompt.place for prompt in drawn[160:]}) == 5


# Figures and the position ------------------------------------------------------------------------


def test_figures_follow_recent_prompts() -> None:
    curriculum = Curriculum([Fake("a"), rows(100)], {"a": 0.5, "data": 0.5}, seed=0, max_difficulty=1)
    assert curriculum.figures() == {}
    run(curriculum, lambda prompt: 0.25, 160)
    assert curriculum.figures() == pytest.approx({"difficulty/a": 1, "pass_rate/a": 0.25, "pass_rate/data": 0.25})
    run(curriculum, lambda prompt: 0.75, 640)
    assert curriculum.figures()["pass_rate/a"] == pytest.approx(0.75, abs=0.01)


def mixed(seed: int) -> Curriculum:
    sources = [Fake("a"), Fake("b"), rows(9)]
    shares, final = {"a": 0.5, "b": 0.2, "data": 0.3}, {"a": 0.1, "b": 0.5, "data": 0.4}
    return Curriculum(sources, shares, final_shares=final, seed=seed)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 9),
    st.lists(st.none() | st.integers(0, 8), max_size=60),
    st.lists(st.integers(0, 8), min_size=1, max_size=30),
)
def test_a_resumed_curriculum_goes_on_exactly(seed: int, before: list[int | None], after: list[int]) -> None:
    whole, resumed = mixed(seed), mixed(seed)
    for place, passed in enumerate(before):
        prompt = whole.draw(place / 100)
        if passed is not None:  # a group may be lost to a reward
            whole.learn(prompt, passed / 8)
    resumed.load(json.loads(json.dumps(whole.state())))
    for passed in after:
        prompts = [each.draw(0.7) for each in (whole, resumed)]
        assert prompts[0] == prompts[1]
        for each, prompt in zip((whole, resumed), prompts, strict=True):
            each.learn(prompt, passed / 8)
    assert whole.state() == resumed.state()
    assert whole.figures() == resumed.figures()


def test_seeds_give_other_prompts() -> None:
    drawn = [[(prompt.place, prompt.level) for prompt in run(mixed(seed), learner(2.0), 48)] for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_a_state_shares_nothing_with_the_curriculum() -> None:
    curriculum = mixed(0)
    run(curriculum, learner(2.0), 48)
    state = curriculum.state()
    frozen = json.dumps(state)
    other = mixed(0)
    other.load(state)
    run(curriculum, learner(2.0), 48)
    run(other, learner(2.0), 48)
    assert json.dumps(state) == frozen


def test_states_of_other_sources_or_of_changed_rows_are_refused() -> None:
    curriculum = alone(rows(50))
    run(curriculum, lambda prompt: 0.5, 16)
    with pytest.raises(DataError, match="the checkpoint draws from data, this run from a"):
        alone(Fake("a")).load(curriculum.state())
    with pytest.raises(DataError, match=r"draw 15 of data was data:\d+ at the checkpoint and is data:\d+: the"):
        alone(rows(51)).load(curriculum.state())
