"""`minimax-m1 eval`: suites by name, samples, and the heat map with its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])


def test_some_suites_as_text_and_as_json(small: Path) -> None:
    told = run(small, "--suite", "addition, up to 1", "--suite", "sums", "--cases", 2)
    assert told.exit_code == 0, told.output
    first, second = told.stdout.splitlines()
    assert first.startswith("addition, up to 1 digits ") and "(0/2, " in first and "pass@" not in first
    assert second.startswith("sums without a thought ")
    [score] = json.loads(run(small, "--suite", "sums", "--cases", 2, "--samples", 3, "--json").stdout)
    assert score["name"] == "sums without a thought" and score["cases"] == 2 and score["accuracy"] == 0
    assert score["hits"] == [0, 0] and score["pass_at"] == {"1": 0, "2": 0, "3": 0}
    [plain] = json.loads(run(small, "--suite", "sums", "--cases", 2, "--json").stdout)
    assert "pass_at" not in plain and plain["loss"] == pytest.approx(score["loss"], rel=1e-4)


def test_a_heat_map_is_a_table_and_two_files(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    plan = ("--heatmap", "--lengths", "300,400", "--depths", "0,100", "--cases", 1, "--out", out)
    told = run(small, *plan)
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[0].split() == ["depth", "300", "400"]
    assert "700 tokens to read in 2 texts: about" in told.stderr
    kept = json.loads((out / "heatmap.json").read_text())
    assert kept["right"] == [[0, 0], [0, 0]] and (out / "heatmap.png").stat().st_size > 1000
    again = json.loads(run(small, *plan, "--json").stdout)
    assert {**again, "seconds": 0} == {**kept, "seconds": 0}
    narrow = json.loads(run(small, *plan, "--json", "--quantization", "int8").stdout)
    assert narrow["quantization"] == "int8" and narrow["command"].endswith(" --quantization int8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "nope"], "no suite begins with 'nope'; there are: addition, up to 1 digits; "),
        (["--samples", "2", "--temperature", "-1"], "temperature must be between 0 and 100, got -1.0"),
        (["--heatmap", "--suite", "talk"], "--heatmap takes none of --suite, --samples and --temperature"),
        (["--heatmap", "--samples", "2"], "--heatmap takes none of --suite, --samples and --temperature"),
        (["--heatmap", "--temperature", "1"], "--heatmap takes none of --suite, --samples and --temperature"),
        (
            ["--heatmap", "--lengths", "1000,8k"],
            "--lengths takes whole numbers with commas between them, got",
        ),
        (["--heatmap", "--depths", "nan"], "--depths takes numbers with commas between them, got 'nan'"),
        (["--heatmap", "--lengths", "90000000"], "a text of 90,000,000 tokens with its question does not fit the "),
    ],
)
def test_bad_input_is_one_sentence(small: Path, arguments: list[str], said: str) -> None:
    result = run(small, *arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert result.stderr.splitlines()[-1].startswith(f"minimax-m1: {said}") and "Traceback" not in result.stderr
