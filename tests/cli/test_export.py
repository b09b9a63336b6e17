"""`minimax-m1 export`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGUFReader
from typer.testing import CliRunner

from minimax_m1.cli.main import app


def test_export_writes_a_file_and_says_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "nano.gguf"
    done = CliRunner().invoke(app, ["export", "nano", "--to", "gguf", "--type", "q8_0", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["file"] == str(out) and told["type"] == "q8_0" and told["bytes"] == out.stat().st_size
    assert len(GGUFReader(out).tensors) == told["tensors"]


def test_export_refuses_a_type_that_it_does_not_know(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "nano", "--type", "q9", "--out", str(tmp_path / "x.gguf")])
    assert done.exit_code == 2 and "q9" in done.output and not list(tmp_path.iterdir())


def test_export_writes_an_int8_folder_that_answers(tmp_path: Path) -> None:
    out = tmp_path / "small"
    asked = ["export", "nano", "--to", "safetensors", "--quantization", "int8", "--out", str(out)]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["folder"] == str(out) and told["quantization"] == "int8" and told["dtype"] == "float32"
    assert told["bytes"] == (out / "model.safetensors").stat().st_size
    answered = CliRunner().invoke(app, ["generate", "What is 12 + 30?", "--model", str(out)])
    assert answered.exit_code == 0 and "42" in answered.stdout, answered.output
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2 and "holds a model already" in again.output


def test_export_writes_a_bfloat16_folder_here_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "nano", "--to", "safetensors", "--dtype", "bfloat16"])
    assert done.exit_code == 0 and done.stdout.startswith("nano-bfloat16: "), done.output
    assert json.loads((tmp_path / "nano-bfloat16" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "gguf", "--quantization", "int8"], "are for safetensors"),
        (["--dtype", "bfloat16"], "are for safetensors"),
        (["--to", "safetensors", "--type", "q8_0"], "q8_0 is for gguf"),
        (["--to", "safetensors", "--quantization", "int3"], "int3"),
    ],
)
def test_options_of_the_other_format_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "nano", *options, "--out", str(tmp_path / "x")])
    assert done.exit_code == 2 and said in done.output and not list(tmp_path.iterdir())
