"""`minimax-m1 train`: a user's chats become a model, a user's rewards a better one, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app
from minimax_m1.train import curves

runner = CliRunner()


def run(*arguments: str | Path) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments])


SMALL = ["--set", "length=200", "--set", "batch_tokens=400", "--set", "epochs=1", "--set", "sample_minutes=0"]


def test_chats_become_a_model(start: Path, chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("train", "sft", "--data", chats, "--start", start, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert "12 messages" in result.stdout and f"the model is in {out / 'model'}" in result.stdout
    answer = run("generate", "Who is 3?", "-m", out / "model", "--max-new-tokens", "3")
    assert answer.exit_code == 0
    drawn = run("train", "curves", out)
    assert drawn.exit_code == 0 and (out / "curves.png").stat().st_size > 1000
    again = run("train", "sft", "--data", chats, "--start", start, "--out", out, *SMALL)
    assert again.exit_code == 2 and "holds a run already" in again.stderr
    more = run("train", "sft", "--resume", "--out", out, "--set", "tokens=1200")  # by the run's own recipe
    assert more.exit_code == 0 and "changed: tokens " in more.stdout
    other = run("train", "sft", "--resume", "--out", out, "--start", "nano")
    assert other.exit_code == 2 and "was trained with start" in other.stderr


def test_bad_data_is_named_with_file_and_line_and_nothing_is_made(start: Path, chats: Path, tmp_path: Path) -> None:
    wrong = {
        '{"messages": [': r"chats.jsonl:13",
        '{"messages": [{"role": "wizard", "content": "hello"}]}': "wizard",
        '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "x"}]}' % ("7" * 900): "200",
    }
    good = chats.read_text("utf-8")
    for line, said in wrong.items():
        chats.write_text(good + line + "\n", "utf-8")
        result = run("train", "sft", "--data", chats, "--start", start, "--out", tmp_path / "run", *SMALL)
        assert result.exit_code == 2 and said in result.stderr, result.output
        assert "chats.jsonl:13:" in result.stderr and "--skip-bad" in result.stderr
        assert not (tmp_path / "run").exists()
    result = run("train", "sft", "--data", chats, "--start", start, "--out", tmp_path / "run", *SMALL, "--skip-bad")
    assert result.exit_code == 0 and "1 lines are left out, the first " in result.stdout


@pytest.mark.parametrize(("name", "said"), [("empty.jsonl", "is empty"), ("absent.jsonl", "there is no such file")])
def test_files_without_a_line_are_refused(start: Path, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    result = run("train", "sft", "--data", tmp_path / name, "--start", start, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 2 and name in result.stderr and said in result.stderr
    assert "Traceback" not in result.output and not (tmp_path / "run").exists()


def test_check_counts_and_names(chats: Path) -> None:
    good = run("train", "check", chats)
    assert good.exit_code == 0 and good.stdout.startswith("12 messages: ")
    with chats.open("a") as file:
        file.write('{"text": 5}\n{"text": "fine", "source": "web"}\n')
    bad = run("train", "check", chats)
    assert bad.exit_code == 2 and "chats.jsonl:13: " in bad.stdout
    assert "1 lines have a key that nothing reads: source" in bad.stdout
    told = json.loads(run("train", "check", chats, "--json").stdout)
    assert told["lines"] == 13 and len(told["faults"]) == 1 and told["kinds"] == {"messages": 12, "text": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "giant"], "no recipe 'giant' for pretrain; there are nano"),
        (["sft", "tiny"], "no recipe 'tiny' for sft; there are chats"),
        (["sft"], "chats reads files of yours: give --data FILE"),
        (["pretrain", "tiny", "--set", "steps=1"], "cannot set 'steps=1'"),
        (["pretrain", "tiny", "--resume", "--out", "nowhere"], "no checkpoint to resume"),
        (["curves", "nowhere"], "nowhere"),
        (["rl", "tiny"], "no recipe 'tiny' for rl; there are nano-rl, prompts"),
        (["rl"], "prompts reads prompts of yours: give --data FILE"),
        (["rl", "--data", "rows.jsonl"], "prompts has no reward of its own: give --reward FILE.py"),
        (["rl", "tiny-rl", "--set", "steps=1"], "cannot set 'steps=1'; keys are "),
        (["rl", "tiny-rl", "--set", "batches=0"], "batches must be at least 1, got 0"),
        (["rl", "tiny-rl", "--data", "rows.jsonl"], "files of prompts need a share"),
        (["rl", "tiny-rl", "--reward", "nowhere.py"], "there is no file nowhere.py"),
        (["rl", "tiny-rl", "--reward", "famly"], "no reward 'famly'; there are family"),
        (["rl", "tiny-rl", "--environment", "nowhere.py"], "there is no file nowhere.py"),
        (["rl", "tiny-rl", "--reward", "environment"], "give --environment FILE.py"),
        (["rl", "--resume", "--out", "nowhere"], "no checkpoint to resume"),
    ],
)
def test_bad_requests_are_one_sentence(arguments: list[str], said: str) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1


# Reinforcement learning ---------------------------------------------------------------------------

TINY = [
    *("batches=2", "prompts=2", "group=2", "updates=1", "output_lengths=[6]", "context=400", "batch_tokens=400"),
    *("refills=0", "reward_seconds=1.5"),
]
ONCE = """\
import pathlib, time
FLAG = pathlib.Path(__file__).with_name("flag")
def reward(prompts, completions, **columns):
    if not FLAG.exists() and len(prompts) > 1:
        FLAG.touch()
        {fault}
    return [float(index) for index in range(len(prompts))]
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {n}", "answer": n}) + "\n" for n in range(5)))
    return path


def learn(start: Path, rows: Path, out: Path, *arguments: str | Path) -> Any:
    small = [argument for setting in TINY for argument in ("--set", setting)]
    return run("train", "rl", "--data", rows, "--start", start, "--out", out, *small, *arguments)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("return [columns['price'][0]]", "mine.reward at mine.py:6: KeyError: 'price'"),
        ("return [float('nan')] * len(prompts)", "mine.reward at mine.py:3: ValueError: a reward must be within"),
        ("return [1.0]", "mine.reward at mine.py:3: ValueError: gave 1 rewards for 4 answers"),
        ("time.sleep(60)", "mine.reward at mine.py:6: TimeoutError: did not return within 1.5 s"),
        ("import os; os._exit(3)", "mine.reward at mine.py: ProcessEnded: "),
    ],
)
def test_a_reward_that_fails_is_named_and_costs_its_batch_alone(
    start: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setattr(curves, "draw", lambda folder: folder)  # a second of drawing each
    mine = tmp_path / "mine.py"
    mine.write_text(ONCE.format(fault=fault))
    result = learn(start, rows, tmp_path / "run", "--reward", mine)
    assert result.exit_code == 0, result.output
    assert (
        result.stdout.count(said) == 1 and "; 4 of 4 answers have no reward, first answer 0 to 'Say " in result.stdout
    )
    assert "batch 1: no answer got a reward, nothing was learned" in result.stdout
    assert "batch 2: reward 1.500 (mine.reward 1.500)" in result.stdout and "agreement 1.0000" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1] and "reward" not in lines[0]


def test_a_reward_that_never_works_ends_the_run_in_one_sentence(start: Path, rows: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def reward(prompts, completions):\n    return prompts[99]\n")
    result = learn(start, rows, tmp_path / "run", "--reward", mine, "--set", "batches=9")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.output
    assert "no answer got a reward in 3 batches in a row, so the run ends: mine.reward at mine.py:2:" in result.stderr


def test_rewards_make_a_model_and_the_run_can_be_gone_on_with(start: Path, rows: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text("def long(completions, **columns):\n    return [len(c[-1]['content']) for c in completions]\n")
    result = learn(start, rows, out, "--reward", f"{mine}:long=0.5", "--set", "algorithm=grpo")
    assert result.exit_code == 0 and f"the model is in {out / 'model'}" in result.stdout, result.output
    assert "data: 5 prompts, the longest of " in result.stdout and "2 batches of 2 x 2 answers" in result.stdout
    assert run("generate", "Who?", "-m", out / "model", "--max-new-tokens", "3").exit_code == 0
    drawn = run("train", "curves", out)
    assert drawn.exit_code == 0 and (out / "curves.png").stat().st_size > 1000
    again = learn(start, rows, out, "--reward", mine)
    assert again.exit_code == 2 and "holds a run already: give --resume" in again.stderr
    more = run("train", "rl", "--resume", "--out", out, "--set", "batches=3")
    assert more.exit_code == 0 and "changed: batches 2 -> 3" in more.stdout and "batch 3: reward" in more.stdout
    other = run("train", "rl", "--resume", "--out", out, "--start", "nano")
    assert other.exit_code == 2 and "was trained with start" in other.stderr


def test_prompts_and_columns_are_checked_before_anything_is_trained(start: Path, rows: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text("def reward(completions, answer, unit='m'):\n    return [1.0] * len(answer)\n")
    good = rows.read_text()
    for line, said in {
        json.dumps({"prompt": "why " * 300, "answer": 1}): "tokens long, the most is 394",
        '{"prompt": ': "JSON",
        '{"prompt": 5, "answer": 1}': "prompt",
    }.items():
        rows.write_text(good + line + "\n")
        result = learn(start, rows, out, "--reward", mine)
        assert result.exit_code == 2 and said in result.stderr and "rows.jsonl:6: " in result.stderr, result.output
        assert "--skip-bad" in result.stderr and not out.exists()
    rows.write_text(good + json.dumps({"prompt": "Say more"}) + "\n")
    result = learn(start, rows, out, "--reward", mine)
    assert result.exit_code == 2 and "mine.py:1 needs the column 'answer'" in result.stderr and not out.exists()
    rows.write_text(good + "{\n")
    result = learn(start, rows, out, "--reward", mine, "--skip-bad")
    assert result.exit_code == 0 and "1 rows are left out, the first " in result.stdout, result.output
    for name, said in (("empty.jsonl", "is empty"), ("absent.jsonl", "there is no such file")):
        (tmp_path / "empty.jsonl").touch()
        result = learn(start, tmp_path / name, tmp_path / "other", "--reward", mine)
        assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "other").exists()
