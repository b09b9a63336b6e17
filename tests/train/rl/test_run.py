"""A run of reinforcement learning in small: exact resume at every point, what may change on the way, what it learns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from minimax_m1.engine.request import FinishReason
from minimax_m1.errors import DataError
from minimax_m1.train.recipes import rl_recipe
from minimax_m1.train.rl.run import RLRun

# A random model writes any tokens, so that a reward which counts letters tells its answers apart.
SMALL = [
    *("batches=2", "prompts=2", "group=3", "updates=2", "refills=0", "output_lengths=[6]", "overlong_share=0.0"),
    *("context=400", "batch_tokens=400", "learning_rate=0.01", "warmup_steps=0"),
]
CLOCKS = ("rollout_seconds", "sampled_tokens_per_second", "held_out_seconds")
LETTERS = """\
def reward(completions, **columns):
    return [sum(letter in "aeiotn ,." for letter in completion[-1]["content"]) for completion in completions]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The user's reward."""
    path = tmp_path / "mine.py"
    path.write_text(LETTERS)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The user's prompts."""
    return written(tmp_path / "rows.jsonl", [{"prompt": f"Say {n}", "answer": n} for n in range(5)])


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def begun(start: Path | str, rows: Path, reward: Path | str, *settings: str, **options: Any) -> Iterator[RLRun]:
    """A run at its beginning, ended after use."""
    given = [f"start={start}", 'shares={"data": 1.0}', f'data=["{rows}"]', f'rewards=["{reward}"]']
    with closing(RLRun.begin(rl_recipe("tiny-rl", [*SMALL, *given, *settings]), **options)) as run:
        yield run


def stepped(run: RLRun) -> dict[str, float]:
    """The figures of a step, but those that a clock tells."""
    return {name: value for name, value in run.train_step().items() if name not in CLOCKS}


def same(mine: RLRun, theirs: RLRun) -> bool:
    """Whether weights and moments of the optimizer are equal to the bit."""
    weights = zip(mine.model.parameters(), theirs.model.parameters(), strict=True)
    own, other = (run.optimizer.state_dict()["state"] for run in (mine, theirs))
    moments = [torch.equal(own[at][name], other[at][name]) for at in own for name in own[at]]
    return own.keys() == other.keys() and all(moments) and all(torch.equal(a, b) for a, b in weights)


# Exact resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_resumed_at_any_point_of_a_batch_takes_the_same_steps_to_the_bit(
    tmp_path: Path, start: Path, rows: Path, mine: Path, lora: int
) -> None:
    with begun(start, rows, mine, f"lora_rank={lora}") as run:
        first = [weight.clone() for weight in run.model.parameters()]
        figures, said = [], []
        for at in range(4):  # before a batch, between its two updates, before the next batch, between those
            run.save(tmp_path / f"{at}")
            assert run.done == at / 2
            figures.append(stepped(run))
            said.append(run.said())
        assert run.done == run.total and [len(lines) for lines in said] == [1, 0, 1, 0]
        moved = [not torch.equal(a, b) for a, b in zip(first, run.model.parameters(), strict=True)]
        assert any(moved) and all(moved) is (lora == 0)
        for at in range(4):
            with closing(RLRun.resume(tmp_path / f"{at}")) as again:
                assert [stepped(again) for _ in range(at, 4)] == figures[at:]
                assert again.tokens == run.tokens and same(run, again)


def test_the_first_update_of_a_batch_says_how_far_trainer_and_sampler_agree(
    start: Path, rows: Path, mine: Path
) -> None:
    with begun(start, rows, mine) as run:
        steps = [run.train_step() for _ in range(4)]
    assert all(steps[at]["agreement"] >= 0.9999 and steps[at]["weight_max"] < 1.001 for at in (0, 2))
    assert all("agreement" not in steps[at] and steps[at]["dlogp_max"] > 1e-3 for at in (1, 3))
    assert [each["batch"] for each in steps] == [1, 1, 2, 2] and [each["step"] for each in steps] == [1, 2, 3, 4]
    assert all("tokens" not in each and each["learned_tokens"] > 0 for each in steps), "curves count tokens up"


def test_settings_may_change_on_the_way_and_what_a_run_is_made_of_may_not(
    tmp_path: Path, start: Path, rows: Path, mine: Path
) -> None:
    with begun(start, rows, mine, "log_every=7") as run:
        run.train_step()
        run.save(tmp_path / "checkpoint")
    settings = ["batches=1", "learning_rate=0.5", "algorithm=grpo", "updates=1", "group=2"]
    with closing(RLRun.resume(tmp_path / "checkpoint", settings)) as again:
        assert "batches 2 -> 1" in again.notes[0] and "learning_rate 0.01 -> 0.5" in again.notes[0]
        assert "grpo" in again.notes[0] and again.recipe.log_every == 7 and again.done == 0.5
        assert again.train_step()["step"] == 2 and again.done == again.total
    with closing(RLRun.resume(tmp_path / "checkpoint")) as again:
        assert again.notes == ()
    for setting, said in (
        ("seed=3", "with seed 0, not 3"),
        ("lora_rank=2", "with lora_rank 0, not 2"),
        ('shares={"data": 0.5, "strings": 0.5}', "with shares"),
        ("start=nano", "with start"),
        ("environment=world.py", "with environment"),
    ):
        with pytest.raises(DataError, match=said):
            RLRun.resume(tmp_path / "checkpoint", [setting])
    with pytest.raises(DataError, match="no checkpoint to resume in"):
        RLRun.resume(tmp_path / "none")
    written(rows, [{"prompt": "Others", "answer": 1}] * 3)
    with pytest.raises(DataError, match="the data changed"):
        RLRun.resume(tmp_path / "checkpoint")


def test_measuring_on_held_out_prompts_leaves_the_run_as_it_is(
    tmp_path: Path, start: Path, rows: Path, mine: Path
) -> None:
    kept = written(tmp_path / "kept.jsonl", [{"prompt": "Say what?"}] * 2)
    with begun(start, rows, mine) as run, begun(start, rows, mine, f'held_out=["{kept}"]') as told:
        for at in range(4):
            plain, measured = stepped(run), stepped(told)
            assert ("held_out_reward" in measured) is (at in (0, 3)), "at the beginning and at the end"
            assert plain == {name: value for name, value in measured.items() if not name.startswith("held_out")}
            assert not any("kept" in line or "held_out" in line for line in told.said())
        assert same(run, told)


# What batches cost --------------------------------------------------------------------------------


def test_batches_without_anything_to_learn_pass_without_an_update(start: Path, rows: Path, mine: Path) -> None:
    mine.write_text("def reward(completions, **columns):\n    return [0.5] * len(completions)\n")
    with begun(start, rows, mine) as run:
        before = [weight.clone() for weight in run.model.parameters()]
        figures = [run.train_step(), run.train_step()]
        assert run.done == run.total and run.step == 0 and "grad_norm" not in figures[0]
        assert [each["reward"] for each in figures] == [0.5, 0.5] and [each["batch"] for each in figures] == [1, 2]
        assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
        assert all("0 of 2 groups teach, nothing to learn" in line for line in run.said())


def test_the_run_ends_after_three_lost_batches_in_a_row_and_not_before(start: Path, rows: Path, mine: Path) -> None:
    mine.write_text(
        "whole = []  # calls with one answer look for the one at fault\n"
        "def reward(completions, **columns):\n"
        "    whole.extend(completions[1:2])\n"
        "    if len(whole) != 3:\n"
        "        raise KeyError('price')\n"
        "    return list(range(len(completions)))\n"
    )
    with begun(start, rows, mine, "batches=9", "updates=1") as run:
        assert all("reward" not in run.train_step() for _ in range(2)) and run.step == 0
        assert run.train_step()["reward"] == 2.5 and run.step == 1, "a good batch begins the count anew"
        run.train_step(), run.train_step()
        with pytest.raises(
            DataError, match=r"in 3 batches in a row, so the run ends: mine.reward at mine.py:5: KeyError"
        ):
            run.train_step()


def test_what_is_wrong_is_said_before_anything_is_sampled(
    tmp_path: Path, start: Path, rows: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[RLRun] = []
    close = RLRun.close

    def ended(run: RLRun) -> None:
        closed.append(run)
        close(run)

    monkeypatch.setattr(RLRun, "close", ended)
    monkeypatch.setattr(RLRun, "_roll", None)
    mine.write_text("def reward(completions, solution):\n    return []\n")
    with pytest.raises(DataError, match=r"mine.py:1 needs the column 'solution'; the rows have answer, "):
        begun(start, rows, mine).__enter__()
    mine.write_text(LETTERS)
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "why " * 400}) + "\n" + '{"question": "?"}\n')
    with pytest.raises(DataError, match=r"(?s)rows.jsonl:6: .* tokens long, the most is 394\n.*rows.jsonl:7: .*keys"):
        begun(start, rows, mine).__enter__()
    assert len(closed) == 2, "processes of rewards are ended"
    with begun(start, rows, mine, skip_bad=True) as run:
        assert "5 prompts" in run.notes[0] and run.notes[1].startswith("2 rows are left out, the first ")


def test_verl_and_async_rewards_are_summed_by_their_weights(tmp_path: Path, start: Path, rows: Path) -> None:
    verl, slow = tmp_path / "verl.py", tmp_path / "slow.py"
    verl.write_text("def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 2.0\n")
    slow.write_text(
        "import asyncio\nasync def reward(completions, answer, **columns):\n"
        "    await asyncio.sleep(0)\n    return [None if n == 0 else float(i) for i, n in enumerate(answer)]\n"
    )
    written(rows, [{"prompt": f"Say {n}", "answer": n, "ground_truth": n, "data_source": "x"} for n in range(2)])
    with begun(start, rows, mine := tmp_path / "unused.py", f'rewards=["{verl}=0.5", "{slow}=-1"]') as run:
        figures = run.train_step()
    assert not mine.exists() and figures["reward/verl.compute_score"] == 2.0
    totals = [1.0] * 3 + [1.0 - n for n in ((0, 1, 2) if figures["reward/slow.reward"] == 1 else (3, 4, 5))]
    assert figures["reward"] == pytest.approx(sum(totals) / 6)


# nano ---------------------------------------------------------------------------------------------


def test_what_an_environment_says_is_no_part_of_the_loss(tmp_path: Path, rows: Path) -> None:
    world = tmp_path / "world.py"
    world.write_text(
        "class World:\n"
        "    def reset(self, answer, **columns):\n        self.said = []\n"
        "    def respond(self, messages):\n        self.said.append(messages[-1]['content'])\n"
        "        return [{'role': 'user', 'content': 'And then?'}] if len(self.said) < 2 else []\n"
        "    def get_reward(self):\n        return float(sum(map(len, self.said)))\n"
    )
    written(rows, [{"prompt": text, "answer": 1} for text in ("Say hello", "Greet me", "Who are you?")])
    settings = ["group=3", "updates=1", "output_lengths=[64]", "context=512", "batch_tokens=1024", "turns=3"]
    with begun("nano", rows, "environment", f"environment={world}", *settings) as run:
        collected = run._roll()
        rollouts = collected.rollouts
        assert rollouts is not None and not collected.said
        answers = [answer for group in collected.groups for answer in group.answers]
        asked = run.tokenizer.encode("And then?")
        for answer in answers:
            between = [at for at in range(len(answer.ids)) if answer.ids[at : at + len(asked)] == asked]
            assert len(between) == 1 and len(answer.added) == 3, "two replies and the environment's message between"
            assert not any(answer.own[between[0] : between[0] + len(asked)]) and answer.own[-1]
            if answer.finish is FinishReason.STOP:
                said = [each["content"] for each in answer.added if each["role"] == "assistant"]
                assert answer.reward == sum(map(len, said))
        figures = run.train_step()
        assert figures["learned_tokens"] == sum(rollouts.own.tolist()) < sum(len(each.ids) for each in answers)
        assert figures["pearson"] >= 0.9999, "the sampler read the environment's messages as the trainer does"


def test_a_short_reward_of_the_users_is_learned_within_a_few_batches(rows: Path, mine: Path) -> None:
    animals = ("cat", "bird", "dog", "horse", "fox", "cow", "mouse", "bear", "wolf", "duck", "goat", "hen")
    written(rows, [{"prompt": f"Tell me a story about a {animal}."} for animal in animals])
    mine.write_text(
        "def reward(completions, **columns):\n"
        "    return [float(completion[-1]['content'].startswith('Long ago')) for completion in completions]\n"
    )
    settings = ["batches=3", "prompts=4", "group=8", "updates=4", "output_lengths=[8]", "learning_rate=0.001"]
    figures = []
    with begun("nano", rows, mine, *settings) as run:
        while run.done < run.total:
            figures.append(run.train_step())
    rewards = [each["reward"] for each in figures if "reward" in each]
    assert len(rewards) == 3 and min(each.get("agreement", 1.0) for each in figures) >= 0.9999
    assert rewards[0] < 0.5 and rewards[-1] > rewards[0] + 0.3, rewards  # 0.16, 0.78, 0.97 when this was written
