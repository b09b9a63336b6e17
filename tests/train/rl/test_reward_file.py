"""Rewards of a user's file: TRL's and verl's ways of calling, and everything that strangers' code may do to us."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minimax_m1.errors import DataError
from minimax_m1.tasks.example import Example
from minimax_m1.train.rl import process
from minimax_m1.train.rl.reward import Answers, Reward, RewardSet, Scored
from minimax_m1.train.rl.reward_file import reward_of

Opener = Callable[..., Reward]


@pytest.fixture
def reward(tmp_path: Path) -> Iterator[Opener]:
    """Writes a file and opens its reward; closed afterwards."""
    opened: list[Reward] = []

    def open_reward(code: str, spec: str = "my_reward.py", **options: Any) -> Reward:
        (tmp_path / "my_reward.py").write_text(textwrap.dedent(code), "utf-8")
        opened.append(reward_of(str(tmp_path / spec), **options))
        return opened[-1]

    yield open_reward
    for one in opened:
        one.close()


def score(reward: Reward, completions: list[Any], **columns: list[Any]) -> Scored:
    prompts = [f"prompt {n}" for n in range(len(completions))]
    return RewardSet([reward]).score(Answers(prompts=prompts, completions=completions, columns=columns))


def test_a_function_of_trl_gets_columns_by_name_and_its_neighbours(reward: Opener, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def same(a, b):\n    return a == b\n", "utf-8")
    mine = reward(
        """
        from neighbour import same

        def reward(prompts, completions, answer, **columns):
            assert len(prompts) == len(columns["completion_ids"])
            return [None if a is None else same(c[-1]["content"], a) for c, a in zip(completions, answer)]
        """
    )
    assert (mine.name, mine.weight, mine.needs, mine.place) == ("my_reward.reward", 1.0, {"answer"}, "my_reward.py:4")
    said = [[{"role": "assistant", "content": str(n)}] for n in range(3)]
    scored = score(mine, said, answer=["0", "x", None], completion_ids=[[1], [2], [3]])
    np.testing.assert_array_equal(scored.total, [1, 0, math.nan])
    assert not scored.faults


def test_a_function_without_room_for_more_gets_only_what_it_names(reward: Opener) -> None:
    mine = reward("def short(completions):\n    return [-len(c) for c in completions]\n", "my_reward.py:short=0.5")
    scored = score(mine, ["a", "bcd"], unasked=[object(), object()])  # not even written as JSON
    np.testing.assert_array_equal(scored.total, [-0.5, -1.5])


def test_coroutines_keep_one_loop_over_batches(reward: Opener) -> None:
    mine = reward(
        """
        import asyncio
        loops = set()

        async def reward(completions, **columns):
            loops.add(id(asyncio.get_running_loop()))
            await asyncio.sleep(0)
            return [len(loops)] * len(completions)
        """
    )
    for _ in range(2):
        np.testing.assert_array_equal(score(mine, ["a", "b"]).total, [1, 1])


def test_a_function_of_verl_is_called_once_an_answer_and_fails_alone(reward: Opener) -> None:
    mine = reward(
        """
        def compute_score(data_source, solution_str, ground_truth, extra_info=None):
            if solution_str == "five":
                return {"score": int(ground_truth) / extra_info, "note": "kept apart"}
            return float(solution_str)
        """
    )
    assert mine.needs == {"data_source", "ground_truth"}
    said = ["five", "2.5", "nan", "x", [{"role": "assistant", "content": "7"}]]
    scored = score(mine, said, data_source=["d"] * 5, ground_truth=["5"] * 5, extra_info=[2] * 5)
    np.testing.assert_array_equal(scored.total, [2.5, 2.5, math.nan, math.nan, 7])
    told = [(fault.error, fault.place, fault.example) for fault in scored.faults]
    assert told == [("ValueError", "my_reward.py:2", 2), ("ValueError", "my_reward.py:5", 3)]


def test_a_coroutine_of_verl_judges_all_answers_at_once(reward: Opener) -> None:
    mine = reward(
        """
        import asyncio
        meeting = asyncio.Barrier(3)

        async def compute_score(solution_str, **unused):
            await meeting.wait()  # passes only when all three are under way
            if solution_str == "b":
                raise LookupError("no b")
            return ord(solution_str)
        """
    )
    scored = score(mine, ["a", "b", "c"])
    np.testing.assert_array_equal(scored.total, [97, math.nan, 99])
    (fault,) = scored.faults
    assert (fault.error, fault.message, fault.place, fault.example) == ("LookupError", "no b", "my_reward.py:8", 1)


FAULTY = """
    import os, sys, time

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    def deep(word):
        if word == "zero":
            return 1 / 0
        if word == "exit":
            sys.exit(3)
        if word == "die":
            os._exit(7)
        if word == "segfault":
            import ctypes
            ctypes.string_at(0)
        if word == "hang":
            time.sleep(1000)
        if word == "mute":
            raise Mute
        return {"nan": float("nan"), "text": "1", "huge": 10**400}.get(word, 1.0)

    def reward(completions, **columns):
        if completions[0] == "few":
            return [1.0]
        if completions[0] == "number":
            return 1.0
        return [deep(word) for word in completions]
    """


def test_whatever_goes_wrong_is_told_and_the_next_batch_is_graded(reward: Opener) -> None:
    mine = reward(FAULTY, timeout=20.0)
    cases = [
        (["ok", "ok", "zero"], "ZeroDivisionError", "division by zero", "my_reward.py:10", 2),
        (["ok", "exit"], "SystemExit", "3", "my_reward.py:12", 1),
        (["ok", "mute"], "Mute", "its message cannot be read", "my_reward.py:21", 1),
        (["few", "ok"], "ValueError", "gave 1 rewards for 2 answers", "my_reward.py:24", 0),
        (["number"], "TypeError", "a list of rewards was expected, got float", "my_reward.py:24", 0),
        (["ok", "die"], "ProcessEnded", "its process exited with status 7", "my_reward.py", 0),
        (["ok", "segfault"], "ProcessEnded", "its process died of signal 11", "my_reward.py", 0),
    ]
    for words, error, message, place, example in cases:
        scored = score(mine, words)
        assert np.isnan(scored.total).all()
        (fault,) = scored.faults
        assert (fault.error, fault.message, fault.place, fault.example) == (error, message, place, example)
    scored = score(mine, ["ok", "nan", "text", "huge"])
    np.testing.assert_array_equal(scored.total, [1, math.nan, math.nan, math.nan])
    assert [(fault.error, fault.example) for fault in scored.faults] == [
        ("ValueError", 1),
        ("TypeError", 2),
        ("OverflowError", 3),
    ]


def test_a_reward_that_never_returns_is_cut_off(reward: Opener) -> None:
    mine = reward(FAULTY, timeout=3.0)
    start = time.monotonic()
    scored = score(mine, ["ok", "hang"])
    assert 3 <= time.monotonic() - start < 20
    (fault,) = scored.faults
    told = (fault.error, fault.message, fault.place)
    assert told == ("TimeoutError", "did not return within 3 s", "my_reward.py:19")
    np.testing.assert_array_equal(score(mine, ["ok"]).total, [1])


def test_answers_graded_before_one_that_hangs_keep_their_rewards(reward: Opener) -> None:
    mine = reward(
        """
        def compute_score(solution_str):
            while solution_str == "hang":
                pass
            return 1.0
        """,
        timeout=3.0,
    )
    scored = score(mine, ["ok", "hang", "ok"])
    np.testing.assert_array_equal(scored.total, [1, math.nan, math.nan])
    assert (scored.faults[0].example, scored.faults[0].place) in ((1, "my_reward.py:3"), (1, "my_reward.py:4"))


def test_one_that_hangs_outside_of_python_is_cut_off_too(reward: Opener) -> None:
    code = "import itertools\ndef reward(completions):\n    return sum(itertools.repeat(0))\n"  # deaf to signals
    (fault,) = score(reward(code, timeout=2.0), ["a"]).faults
    assert (fault.error, fault.place) == ("TimeoutError", "my_reward.py")


def test_a_file_that_broke_meanwhile_is_told_when_its_process_must_start_again(reward: Opener, tmp_path: Path) -> None:
    mine = reward("import os\ndef reward(completions):\n    os._exit(0)\n")
    assert score(mine, ["a"]).faults[0].message == "its process exited with status 0"
    (tmp_path / "my_reward.py").write_text("\nreward = (\n", "utf-8")
    (fault,) = score(mine, ["a"]).faults
    assert (fault.error, fault.place) == ("NotLoaded", "my_reward.py:2")
    (tmp_path / "my_reward.py").write_text("def reward(completions):\n    return [1.0]\n", "utf-8")
    np.testing.assert_array_equal(score(mine, ["a"]).total, [1])


def test_a_file_that_never_finishes_loading_is_refused(reward: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START", 3.0)
    with pytest.raises(DataError, match=r"my_reward\.py:3: it was still loading after 3 s"):
        reward("import time\n\ntime.sleep(999)\n")


def test_a_search_for_the_answer_at_fault_that_hangs_still_tells_the_error(reward: Opener) -> None:
    mine = reward(
        """
        def reward(completions):
            while len(completions) == 1:
                pass
            return [1 / 0]
        """,
        timeout=3.0,
    )
    (fault,) = score(mine, ["a", "b"]).faults
    assert (fault.error, fault.place, fault.example) == ("ZeroDivisionError", "my_reward.py:5", 0)


@pytest.fixture
def typed() -> Iterator[None]:
    """Something to read at our own standard input."""
    keyboard, hands = os.pipe()
    ours = os.dup(0)
    os.write(hands, b"typed")
    os.close(hands)
    os.dup2(keyboard, 0)
    yield
    os.dup2(ours, 0)
    for handle in (ours, keyboard):
        os.close(handle)


def test_prints_go_to_stderr_and_input_finds_nothing(
    reward: Opener, capfd: pytest.CaptureFixture[str], typed: None
) -> None:
    mine = reward(
        """
        import sys
        def reward(completions):
            print("seen")
            return [len(sys.stdin.read())] * len(completions)
        """
    )
    np.testing.assert_array_equal(score(mine, ["a"]).total, [0])
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == "seen\n"


def test_columns_that_json_knows_not_are_told_or_made_plain(reward: Opener) -> None:
    mine = reward("def reward(completions, extra):\n    return [e['difficulty'] if e else 0 for e in extra]\n")
    np.testing.assert_array_equal(score(mine, ["a"], extra=[Example(family="f", difficulty=3)]).total, [3])
    np.testing.assert_array_equal(score(mine, ["a\ud800"], extra=[np.zeros(0)]).total, [0])
    (fault,) = score(mine, ["a"], extra=[object()]).faults
    assert fault.message == "a column holds object, which JSON cannot"
    np.testing.assert_array_equal(score(mine, ["a"], extra=[{"difficulty": 2}]).total, [2])


def test_arrays_are_lists_of_rewards(reward: Opener) -> None:
    mine = reward("import numpy\ndef reward(completions):\n    return numpy.arange(len(completions)) / 2\n")
    np.testing.assert_array_equal(score(mine, ["a", "b"]).total, [0, 0.5])


@pytest.mark.parametrize(
    ("code", "spec", "says"),
    [
        ("x = 1\ndef reward(:\n", "my_reward.py", r"my_reward\.py:2: SyntaxError: invalid syntax"),
        ("\nimport no_such_thing\n", "my_reward.py", r"my_reward\.py:2: ModuleNotFoundError: No module named"),
        ("import sys\n\nsys.exit('bye')\n", "my_reward.py", r"my_reward\.py:3: SystemExit: bye"),
        (
            "import os\nos._exit(4)\n",
            "my_reward.py",
            r"my_reward\.py: its process exited with status 4 while it was lo",
        ),
        ("def other(completions): ...", "my_reward.py", r"there is no function reward or compute_score; it has other"),
        ("def reward(completions): ...", "my_reward.py:mine", r"there is no function mine; it has reward"),
        ("reward = 3", "my_reward.py", r"my_reward\.py: reward is no function"),
        ("\ndef reward(text): ...", "my_reward.py", r"my_reward\.py:2: reward\(text\) must take prompts, completions"),
        ("def reward(completions, /): ...", "my_reward.py", r"my_reward\.py:1: reward\(completions\) must take"),
        (
            "def compute_score(solution_str, gold): ...",
            "my_reward.py",
            r"my_reward\.py:1: compute_score wants 'gold', which is none of data_source, solution_str",
        ),
        ("", "my_reward.py=heavy", r"must be a finite number"),
        ("", "my_reward.py:f=nan", r"must be a finite number"),
        ("", "my_reward.txt", r"a reward is FILE\.py, FILE\.py:function or FILE\.py:function=weight, got"),
        ("", "absent.py", r"there is no file .*absent\.py"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_runs(
    reward: Opener, code: str, spec: str, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        reward(code, spec)


def test_a_process_dies_with_its_training_even_while_it_hangs(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(
        "import os\ndef reward(completions):\n    print(os.getpid(), flush=True)\n    while True: pass\n", "utf-8"
    )
    training = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from minimax_m1.train.rl.reward import *; "
            "from minimax_m1.train.rl.reward_file import reward_of; "
            "reward_of(sys.argv[1]).grade(Answers(prompts=['p'], completions=['c']))",
            str(tmp_path / "hang.py"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert training.stderr is not None
    with training.stderr:
        worker = int(training.stderr.readline())
        training.kill()
        training.wait()
        deadline = time.monotonic() + 30
        while _lives(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        lives = _lives(worker)
        if lives:
            os.kill(worker, signal.SIGKILL)
        assert not lives


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
