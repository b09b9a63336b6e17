"""Rewards by name: what each name makes, weights, what is refused, and that a refusal leaves no process behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.reward import Answers
from minimax_m1.train.rl.rewards import rewards_of

PLAIN = RLRecipe(name="mine", start="nano", shares={"addition": 1.0})
SHORT = "def reward(prompts, completions, **columns):\n    return [1.0 / len(text) for text in completions]\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes that files of rewards have started."""
    pids: list[int] = []

    class Counted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
            super().__init__(*args, **kwargs)
            pids.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    yield pids


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def named(*rewards: str, **change: str) -> RLRecipe:
    return replace(PLAIN, rewards=rewards, **change)  # type: ignore[arg-type]


def test_names_and_weights_become_rewards_in_order(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(SHORT)
    file = f"{tmp_path / 'short.py'}:reward=0.25"
    with rewards_of(named("family", "format=0.1", file, "environment=-2", environment="world.py")) as made:
        told = [(reward.name, reward.weight) for reward in made.rewards]
    assert told == [("family", 1.0), ("format", 0.1), ("short.reward", 0.25), ("environment", -2.0)]


def test_they_grade_together(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(SHORT)
    answers = Answers(
        prompts=["a", "a"],
        completions=["four", "ab"],
        columns={"environment_reward": [3.0, None]},
    )
    with rewards_of(named(f"{tmp_path / 'short.py'}=0.5", "environment=2", environment="world.py")) as made:
        scored = made.score(answers)
    assert scored.total.tolist() == [0.5 / 4 + 6, 0.5 / 2] and not scored.faults


@pytest.mark.parametrize(
    "name, sentence",
    [
        (
            "familly",
            "no reward 'familly'; there are family, format, environment, agreement, preference and FILE.py:NAME",
        ),
        ("", "no reward ''; there are family"),
        ("family=", "the weight in 'family=' must be a finite number"),
        ("family=much", "the weight in 'family=much' must be a finite number"),
        ("family=nan", "the weight in 'family=nan' must be a finite number"),
        ("family=inf", "the weight in 'family=inf' must be a finite number"),
        ("family=1=2", "the weight in 'family=1=2' must be a finite number"),
        ("family=2e9", "the weight of family must be within ±1e+09, got 2000000000.0"),
        ("absent.py", "there is no file absent.py"),
        ("absent.py:name=0.5", "there is no file absent.py"),
        ("absent.pyc", "a reward is FILE.py, FILE.py:function or FILE.py:function=weight, got 'absent.pyc'"),
        ("environment", "the reward environment is what an environment says: give --environment FILE.py"),
    ],
)
def test_what_is_no_reward_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        rewards_of(named(name))
    assert sentence in str(refusal.value)


def test_no_reward_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="there is no reward"):
        rewards_of(named())


@pytest.mark.parametrize("kind", ["agreement", "preference"])
@pytest.mark.parametrize("judge", [{}, {"judge_url": "http://127.0.0.1:9"}, {"judge_model": "m"}])
def test_a_judge_needs_its_address_and_its_name(kind: str, judge: dict[str, str]) -> None:
    with pytest.raises(DataError, match=f"the reward {kind} asks a judge: set judge_url and judge_model"):
        rewards_of(named(kind, **judge))


def test_a_judge_is_made_without_asking_it_anything() -> None:
    with rewards_of(
        named("agreement=2", "preference", judge_url="http://127.0.0.1:9/v1", judge_model="m", reward_seconds=1.0)  # type: ignore[arg-type]
    ) as made:
        assert [reward.weight for reward in made.rewards] == [2.0, 1.0]


@pytest.mark.parametrize("later", ["nothing", "agreement", "family=x", "broken.py", "short.py:reward=2"])
def test_what_was_started_is_ended_where_a_later_reward_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int], later: str
) -> None:
    (tmp_path / "short.py").write_text(SHORT)
    (tmp_path / "broken.py").write_text("reward = 3\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        rewards_of(named("short.py", later))
    assert started and not any(map(alive, started))


def test_closing_ends_every_process(tmp_path: Path, started: list[int]) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(SHORT)
    with rewards_of(named(*(str(tmp_path / f"{name}.py") for name in ("one", "two")))):
        assert len(started) == 2 and all(map(alive, started))
    assert not any(map(alive, started))
