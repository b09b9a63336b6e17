"""`minimax-m1 bench`, as typed, on a model of a moment; what benchmarks/bench_peers.py lets pass as agreement."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("spoiled", ["one logit of each row off by a fiftieth", "rows shifted", "not a number"])
def test_the_peer_benchmark_prints_nothing_where_logits_disagree(spoiled: str) -> None:
    peers = _benchmark("bench_peers")
    bound = peers.SHAPES["small"]["bounds"]["float32"]
    mine = np.random.default_rng(0).normal(size=(40, 64))
    peers.agree("them", "float32", {"near": peers.gap(mine, mine * (1 + 1e-5))}, bound)
    other = np.roll(mine, 1, axis=0) if spoiled == "rows shifted" else mine.copy()
    if spoiled == "not a number":
        other[3, 5] = np.nan
    elif spoiled.startswith("one"):
        other[:, 7] += 0.02
    with pytest.raises(SystemExit, match=r"logits of them .*far.* no figures"):
        peers.agree("them", "float32", {"near": 0.0, "far": peers.gap(mine, other)}, bound)


def test_the_peer_benchmark_takes_each_figure_from_the_better_setting_and_the_better_peer() -> None:
    peers = _benchmark("bench_peers")

    def told(speed: float, memory: float) -> dict[str, Any]:
        figures = {"prefill 8": speed, "peak memory MB": memory}
        return {"figures": figures, "gb_per_second": {}}

    record = {
        "machine": {"memory_gb_per_second": 10.0},
        "results": {
            "float32": {"ours": told(100, 50), "transformers": told(40, 25), "llama.cpp": told(20, 90)},
            "bfloat16": {"ours": told(90, 60), "transformers": told(50, 80), "llama.cpp": told(10, 95)},
        },
    }
    _, prefill, memory = peers.rows(record, eight=False)
    assert prefill[:-1] == ["prefill 8", "100 f32", "50 bf16", "20 f32", "2.00"]
    assert memory[:-1] == ["peak memory MB", "50 f32", "25 f32", "90 f32", "0.50"]


def _benchmark(name: str) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]
