"""`minimax-m1 context ...`, in this process and as a program that is killed while it reads."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app
from minimax_m1.engine.context import Context
from minimax_m1.engine.manifest import read
from minimax_m1.errors import CheckpointError
from minimax_m1.tasks.recall import needle

runner = CliRunner()
STORY = "hello there, how are you? hello, how are you there? " * 5 + "\n"


def run(*arguments: str | Path, stdin: str | None = None) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIMAX_M1_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "contexts"


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    return path


@pytest.fixture
def book(tmp_path: Path, small: Path, story: Path) -> Path:
    folder = tmp_path / "book.ctx"
    made = run("context", "create", story, "--out", folder, "-m", small, "--save-every", "100")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith(f"{folder} holds ") and "read now in" in made.stdout
    return folder


@pytest.mark.parametrize("command", ["create", "ask", "extend", "branch", "list", "show", "delete"])
def test_every_command_has_its_help(command: str) -> None:
    result = run("context", command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_asking_answers_as_generate_does_without_reading_again(book: Path, small: Path, story: Path) -> None:
    whole = json.loads(run("generate", STORY.rstrip() + "\n\nwho?", "-m", small, "--json").stdout)
    told = json.loads(run("context", "ask", book, "who?", "--json").stdout)
    assert told["content"] == whole["content"] and told["content"]
    assert told["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert told["usage"]["cached_tokens"] == Context.open(book).manifest.tokens
    assert told["usage"]["output_tokens"] == 8 and told["finish_reason"] == "length"
    assert 0 < told["seconds_to_first_token"] < 60
    assert run("context", "ask", book, "who?").stdout == whole["content"] + "\n"
    assert run("context", "ask", book, "-", stdin="who?").stdout == whole["content"] + "\n"
    one = run("context", "ask", book, "who?", "--max-new-tokens", "1", "--json").stdout
    assert json.loads(one)["usage"]["output_tokens"] == 1


def test_a_second_reading_finds_everything_there(book: Path, small: Path, story: Path) -> None:
    again = run("context", "create", story, "--out", book, "-m", small)
    assert again.exit_code == 0 and "already" in again.stdout
    story.write_text("other words")
    changed = run("context", "create", story, "--out", book, "-m", small)
    assert changed.exit_code == 2 and "holds another text: token" in changed.stderr


def test_several_files_and_stdin_make_one_text(tmp_path: Path, small: Path, story: Path, home: Path) -> None:
    (tmp_path / "end.txt").write_text("hello\n")
    made = run("context", "create", "-", story, tmp_path / "end.txt", "--out", "book", "-m", small, stdin="you?\r\n")
    assert made.exit_code == 0, made.output
    whole = run("generate", f"you?\n\n{STORY.rstrip()}\n\nhello\n\nwho?", "-m", small).stdout
    assert run("context", "ask", "book", "who?").stdout == whole
    assert read(home / "book").meta["sources"] == ["-", str(story), str(tmp_path / "end.txt")]


def test_an_extension_and_a_branch(book: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("and there?\n")
    before = run("context", "ask", book, "who?").stdout
    assert run("context", "branch", book, tmp_path / "second.ctx").exit_code == 0
    longer = run("context", "extend", tmp_path / "second.ctx", tmp_path / "more.txt")
    assert longer.exit_code == 0, longer.output
    whole = run("generate", f"{STORY.rstrip()}\n\nand there?\n\nwho?", "-m", small).stdout
    assert run("context", "ask", tmp_path / "second.ctx", "who?").stdout == whole
    assert run("context", "ask", book, "who?").stdout == before
    taken = run("context", "branch", book, tmp_path / "second.ctx")
    assert taken.exit_code == 2 and "is a context already" in taken.stderr


def test_contexts_are_listed_shown_and_deleted(book: Path, small: Path, home: Path, story: Path) -> None:
    assert run("context", "list").stdout == ""
    assert run("context", "branch", book, "kept").exit_code == 0
    tokens = read(book).tokens
    [row] = run("context", "list").stdout.splitlines()
    assert row.startswith("kept ") and f"{tokens} tokens" in row
    [described] = json.loads(run("context", "list", book.parent, "--json").stdout)
    assert described["context"] == str(book) and described["tokens"] == tokens and described["complete"]
    shown = run("context", "show", book, "--verify").stdout
    assert f"{tokens} tokens" in shown and f"from {story}" in shown and "every file is as it was written" in shown
    assert json.loads(run("context", "show", "kept", "--json", "--verify").stdout)["verified"]
    part = home / "kept" / "part-00000.safetensors"
    part.unlink()
    assert run("context", "show", "kept").exit_code == 0
    broken = run("context", "show", "kept", "--verify")
    assert broken.exit_code == 2 and f"{part} is missing" in broken.stderr
    asked = run("context", "delete", "kept")
    assert asked.exit_code == 2 and "needs --yes" in asked.stderr and (home / "kept").exists()
    assert run("context", "delete", "kept", "--yes").exit_code == 0 and not (home / "kept").exists()
    (home / "odd").mkdir()
    (home / "odd" / "manifest.json").write_text("{")
    assert "is cut, or no manifest" in run("context", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "none.txt", "--out", "c.ctx"], "none.txt cannot be read: No such file or directory"),
        (["create", "empty.txt", "--out", "c.ctx"], "empty.txt holds no text"),
        (["create", "bytes", "--out", "c.ctx"], "bytes is not UTF-8"),
        (["create", "-", "-", "--out", "c.ctx"], '"-" may stand once'),
        (["create", "empty.txt", "--out", ""], "the name of a context is empty"),
        (["create", "long.txt", "--out", "c.ctx"], "tokens or more, and the model takes"),
        (["create", "empty.txt", "--out", "c.ctx", "--save-every", "0"], "greater than or equal to 1"),
        (["ask", "none.ctx", "why?"], "no context at none.ctx"),
        (["extend", "none.ctx", "empty.txt"], "no context at none.ctx"),
        (["branch", "none.ctx", "b.ctx"], "no context at none.ctx"),
        (["show", "none"], "no context at"),
        (["delete", "none.ctx", "--yes"], "no context at none.ctx"),
        (["delete", ".", "--yes"], "no context at ."),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, home: Path, small: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("bytes").write_bytes(b"\xff")
    Path("long.txt").write_text("you " * 100_000)
    model = ["-m", str(small)] if arguments[0] == "create" else []
    result = run("context", *arguments, *model)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output
    assert not Path("c.ctx").exists() and not Path("b.ctx").exists()


def test_asking_with_another_model_is_refused(book: Path) -> None:
    result = run("context", "ask", book, "who?", "-m", "nano")
    assert result.exit_code == 2 and "manifest.json belongs to another model" in result.stderr
    nobody = run("context", "ask", book, "")
    assert nobody.exit_code == 2 and "the question is empty" in nobody.stderr


@pytest.fixture(scope="session")
def novel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A text with a fact in its first tenth, the question, and what nano answers when it reads all in one go."""
    folder = tmp_path_factory.mktemp("novel")
    content: str = needle(random.Random(5), 3000, 0.1).messages[0]["content"]
    text, _, question = content.rpartition("\n\n")
    (folder / "novel.txt").write_text(text)
    answer = json.loads(run("generate", content, "--json").stdout)["content"]
    return folder / "novel.txt", question, answer


def killed(novel: Path, folder: Path, moment: float, after: float) -> None:
    """Runs `context create` as a program and kills it `after` seconds from when a share of the text is on disk."""
    command = [sys.executable, "-m", "minimax_m1", "context", "create", str(novel), "--out", str(folder)]
    with subprocess.Popen([*command, "--save-every", "128"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        while program.poll() is None:
            try:
                record = read(folder)
            except CheckpointError:
                record = None
            if record is not None and record.tokens >= moment * record.total:
                time.sleep(after)
                program.kill()
                break
            time.sleep(0.001)


def check_kills(novel: tuple[Path, str, str], folder: Path, moments: list[tuple[float, float]]) -> None:
    text, question, answer = novel
    for share, after in moments:
        killed(text, folder, share, after)
        record = read(folder)
        if record.tokens:
            Context.open(folder).verify()
    resumed = run("context", "create", text, "--out", folder, "--save-every", "128")
    assert resumed.exit_code == 0, resumed.output
    told = json.loads(run("context", "ask", folder, question, "--json").stdout)
    assert told["content"] == answer
    assert told["usage"]["cached_tokens"] == read(folder).total


def test_a_killed_reading_goes_on_to_the_same_answer(novel: tuple[Path, str, str], tmp_path: Path) -> None:
    check_kills(novel, tmp_path / "book.ctx", [(0.2, 0.0), (0.6, 0.02)])
    assert read(tmp_path / "book.ctx").complete


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_ten_random_moments_resume_to_the_same_answer(novel: tuple[Path, str, str], tmp_path: Path) -> None:
    draw = random.Random(11)
    for number in range(10):
        check_kills(novel, tmp_path / f"{number}.ctx", [(draw.random(), 0.2 * draw.random())])
