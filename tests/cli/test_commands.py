"""The command line: in this process where that is enough, as a program where it is not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app
from minimax_m1.presets import tiny

runner = CliRunner()
PROGRAM = [sys.executable, "-m", "minimax_m1"]


def run(*arguments: str | Path, stdin: str | None = None) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.mark.parametrize(
    "command", [[], ["generate"], ["chat"], ["serve"], ["inspect"], ["train", "pretrain"], ["eval"], ["context"]]
)
def test_every_command_has_its_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_help_loads_no_torch() -> None:
    code = "import sys; from minimax_m1.cli import main; assert not {'torch', 'fastapi', 'uvicorn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("command", [["generate", "hi", "-m"], ["chat", "-m"], ["serve", "-m"], ["inspect"]])
def test_an_unknown_model_is_one_sentence(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(*command, "no such model")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("minimax-m1: no model at 'no such model'") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", ""], "the prompt is empty"),
        (["generate", "-"], "the prompt is empty"),
        (["generate", "hi", "--max-new-tokens", "0"], "greater than or equal to 1"),
        (["generate", "hi", "--temperature", "nan"], "temperature must be between 0 and 100, got nan"),
        (["generate", "hi", "--expert-threshold", "1.5"], "expert_threshold must be above 0 and at most 1, got 1.5"),
    ],
)
def test_bad_input_is_one_sentence(small: Path, arguments: list[str], said: str) -> None:
    result = run(*arguments, "-m", small, stdin="")
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_a_broken_checkpoint_is_one_sentence(small: Path, tmp_path: Path) -> None:
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (["generate", "hi", "-m", tmp_path], ["serve", "-m", tmp_path, "--port", "0"]):
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert "model.safetensors" in result.stderr and "Traceback" not in result.stderr


def test_generate_as_text_and_as_json(small: Path) -> None:
    whole = json.loads(run("generate", "hello", "-m", small, "--json").stdout)
    assert whole["usage"]["output_tokens"] == 8 and whole["finish_reason"] == "length"
    assert whole["routing"]["tokens"] == whole["usage"]["input_tokens"] + 7
    assert set(whole) == {"model", "reasoning", "content", "tool_calls", "finish_reason", "usage", "routing"}
    again = run("generate", "-", "-m", small, stdin="hello")
    assert again.exit_code == 0 and again.stdout == whole["content"] + "\n"


def test_generate_raw_continues_the_text(small: Path) -> None:
    raw = json.loads(run("generate", "hello", "-m", small, "--raw", "--json", "--max-new-tokens", "3").stdout)
    assert raw["usage"]["output_tokens"] == 3 and raw["usage"]["input_tokens"] < 5
    text = run("generate", "hello", "-m", small, "--raw", "--max-new-tokens", "3").stdout
    assert text == raw["text"] + "\n"


@pytest.mark.parametrize(
    "command", [["generate", "hi", "-m"], ["chat", "-m"], ["serve", "--port", "0", "-m"], ["eval"]]
)
def test_every_command_that_answers_takes_a_quantisation(small: Path, command: list[str]) -> None:
    result = run(*command, small, "--quantization", "int3")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "minimax-m1: quantization must be null or \"int8\", got 'int3'"


@pytest.mark.parametrize(
    "command",
    [
        *(["generate", "hi", "-m"], ["chat", "-m"], ["serve", "--port", "0", "-m"], ["eval"], ["bench"]),
        *(["eval", "--heatmap", "--lengths", "300"], ["context", "create", "-", "--out", "x.ctx", "-m"]),
    ],
)
def test_every_command_that_runs_a_model_says_that_a_device_is_not_there(small: Path, command: list[str]) -> None:
    result = run(*command, small, "--device", "abacus", "--dtype", "bfloat16", stdin="text")
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("minimax-m1: device 'abacus' cannot be used: ")


def test_generate_in_bfloat16(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

    seen: list[torch.dtype] = []
    step = MiniMaxM1ForCausalLM.run
    monkeypatch.setattr(
        MiniMaxM1ForCausalLM, "run", lambda self, *some, **more: seen.append(self.dtype) or step(self, *some, **more)
    )
    assert run("generate", "hello", "-m", small, "--dtype", "bfloat16").exit_code == 0
    assert {*seen} == {torch.bfloat16}


def test_too_little_memory_on_a_gpu_is_one_sentence(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(MiniMaxM1ForCausalLM, "from_pretrained", full)
    result = run("generate", "hello", "-m", small)
    assert result.exit_code == 2
    assert result.stderr == "minimax-m1: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


def test_generate_in_int8(small: Path) -> None:
    whole = json.loads(run("generate", "hello", "-m", small, "--quantization", "int8", "--json").stdout)
    assert whole["usage"]["output_tokens"] == 8


def test_a_seed_repeats_itself(small: Path) -> None:
    def sampled(seed: int) -> str:
        return str(run("generate", "hello", "-m", small, "--temperature", "1", "--seed", seed).stdout)

    assert sampled(1) == sampled(1) != sampled(2)


def test_chat_remembers_resets_and_leaves(small: Path) -> None:
    once = run("chat", "-m", small, stdin="hello\n").stdout
    assert once
    talk = run("chat", "-m", small, stdin="hello\n\n/reset\nhello\nhello\n/quit\nnever\n")
    assert talk.exit_code == 0
    assert talk.stdout.startswith(once * 2)
    last = talk.stdout.removeprefix(once * 2)
    assert last and last != once  # the second answer of a conversation has the first one before it


def test_chat_goes_on_after_a_turn_that_does_not_fit(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tiny().max_position_embeddings
    talk = run("chat", "-m", small, stdin=f"{'a ' * limit}\nhello\n")
    assert talk.exit_code == 0 and "context window" in talk.stderr
    assert talk.stdout == run("chat", "-m", small, stdin="hello\n").stdout


def test_inspect_as_text_and_as_json() -> None:
    assert "parameters" in run("inspect", "tiny").stdout
    assert json.loads(run("inspect", "tiny", "--json").stdout)["parameters"] > 0


def test_a_port_in_use_is_one_sentence(small: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "-m", small, "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2 and "cannot listen on 127.0.0.1 port" in result.stderr


@pytest.fixture
def program(small: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*PROGRAM, "serve", "-m", str(small), "--port", "0", "--max-model-len", "500", "--served-name", "small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def test_the_printed_curl_line_works_as_it_stands(program: subprocess.Popen[str]) -> None:
    assert program.stdout is not None
    first = program.stdout.readline()
    assert "small answers at" in first and "kernels: cpu (numba)" in first
    line = program.stdout.readline()
    found = re.fullmatch(r"curl (\S+) -H 'content-type: application/json' -d '(.*)'\n", line)
    assert found, line
    answer = httpx2.post(found[1], content=found[2], headers={"content-type": "application/json"}, timeout=30).json()
    assert answer["model"] == "small" and answer["usage"]["output_tokens"] > 0
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 130
    assert program.stderr is not None and "Traceback" not in program.stderr.read()


def test_ctrl_c_stops_an_answer_but_not_the_chat(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimax_m1.llm import LLM

    stream = LLM.stream

    def interrupted(self: LLM, *arguments: Any) -> Iterator[Any]:
        for number, item in enumerate(stream(self, *arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    whole = run("chat", "-m", small, stdin="hello\n").stdout
    monkeypatch.setattr(LLM, "stream", interrupted)
    talk = run("chat", "-m", small, stdin="hello\n/reset\nhello\n")
    assert talk.exit_code == 0
    cut = talk.stdout[: len(talk.stdout) // 2]  # both answers are cut at the same place
    assert talk.stdout == 2 * cut and whole.startswith(cut.rstrip("\n")) and len(cut) < len(whole)
