"""`minimax-m1 train`: a user's chats become a model, and bad data is named before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app

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
    ],
)
def test_bad_requests_are_one_sentence(arguments: list[str], said: str) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
