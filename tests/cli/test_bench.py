"""`minimax-m1 bench`, as typed, on a model of a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minimax_m1.cli.main import app


def test_bench_measures_every_cell_and_the_machine_beside_it(small: Path) -> None:
    asked = ["bench", str(small), "--prompt-lengths", "16,64", "--batch", "1,2", "--repeats", "1", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    numbers = [value for value in _leaves(report) if isinstance(value, int | float)]
    assert numbers and all(number >= 0 for number in numbers)
    assert [row["tokens"] for row in report["prefill"]] == [16, 64]
    cells = [(row["past"], row["batch"]) for row in report["decode"]]
    assert cells == [(16, 1), (16, 2), (64, 1), (64, 2)]
    assert all(row["tokens_per_second"] > 0 for row in (*report["prefill"], *report["decode"]))


@pytest.mark.parametrize(("option", "value"), [("--prompt-lengths", "0"), ("--batch", "one"), ("--prompt-lengths", "")])
def test_bench_refuses_what_is_no_list_of_numbers(small: Path, option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["bench", str(small), option, value])
    assert done.exit_code == 2
    assert option.strip("-") in done.output


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]
