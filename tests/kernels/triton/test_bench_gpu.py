"""The script that checks and times all kernels on a GPU runs from end to end before a GPU sees it, at toy sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "bench_gpu.py"


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def measured(folder: Path, *sections: str) -> dict[str, Any]:
    """What the script wrote of some sections."""
    done = called("--interpret", "--out", str(folder), "--only", ",".join(sections), "--commit", "abc")
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    assert told["toy"] and told["commit"] == "abc" and set(told["sections"]) == set(sections)
    return told


def test_a_section_is_checked_and_told_and_makes_a_page(tmp_path: Path) -> None:
    told = measured(tmp_path, "glue", "fla")
    glue = told["sections"]["glue"]
    assert glue["state"] == "done" and not glue["faults"], glue
    assert glue["checks"] and all(check["right"] for check in glue["checks"]), glue["checks"]
    for row in glue["rows"]:
        assert row["ms"] > 0 and row["floor_ms"] > 0 and row["error"] is not None, row
    assert "fla" in told["sections"]["fla"]["faults"]
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "the times here measure nothing" in page and "| rms_norm 5 x 48 |" in page and "## Checks" in page
    assert not list(tmp_path.glob("*.log")) and {f.name for f in tmp_path.iterdir()} == {"results.json", "README.md"}


@pytest.mark.slow
def test_every_section_runs_and_is_right(tmp_path: Path) -> None:
    names = ("lightning", "recurrent", "blocks", "moe", "attention", "nano", "head", "glue")
    told = measured(tmp_path, *names)
    for name, section in told["sections"].items():
        assert section["state"] == "done" and not section["faults"], (name, section["faults"])
        assert section["rows"], name
        assert all(check["right"] for check in section["checks"]), (name, section["checks"])
    assert "worked out from the layers above" in (tmp_path / "README.md").read_text("utf-8")


def test_without_a_gpu_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    done = called("--out", str(tmp_path))
    assert done.returncode == 0 and "no NVIDIA GPU here; --interpret" in done.stdout  # other benchmarks go on
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_is_owed_where_no_gpu_has_run(tmp_path: Path) -> None:
    resource = {"cases": ["op"], "kernel": "k", "registers": 64, "spilled": 0, "shared": 2048, "warps": 4, "blocks": 8}
    more = {"matrix": "wgmma", "loads": {"16": 2}, "copies": {}}
    (tmp_path / "resources.json").write_text(json.dumps([resource | more]), "utf-8")
    done = called("--page", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "**the timings are owed.**" in page and "bench_gpu.py --out runs/gpu" in page
    assert "| op | `k` | 64 | 0 | 2.0 | 4 | 8 | wgmma | 16 |" in page


def test_a_wrong_answer_is_told_and_not_timed(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import torch
from gpu_clock import Bench
bench = Bench("s", torch.device("cpu"), True, Path({file!r}), 1.0, 1.0)
one = torch.ones(4)
with bench.part("right"):
    bench.check("right", {{"x": one}}, {{"x": one}}, 1e-6)
    bench.tell("right", bench.time(lambda: None), moved=1)
with bench.part("wrong"):
    bench.check("wrong", {{"x": one * 1.1}}, {{"x": one}}, 1e-2)
    bench.tell("wrong", bench.time(lambda: None), moved=1)
with bench.part("nothing"):
    bench.check("nothing", {{"x": one * float("nan")}}, {{"x": one}}, 1e-2)
"""
    file = tmp_path / "s.json"
    script = code.format(folder=str(SCRIPT.parent), file=str(file))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text("utf-8"))
    assert [row["case"] for row in told["rows"]] == ["right"]
    assert set(told["faults"]) == {"wrong", "nothing"} and "off by 1.0e-01" in told["faults"]["wrong"]
    assert [check["right"] for check in told["checks"]] == [True, False, False]


def test_the_floor_is_the_longer_of_memory_and_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_clock import Bench

    bench = Bench("s", torch.device("cpu"), True, tmp_path / "s.json", copy_gbs=1000.0, matrix_tflops=500.0)
    peers = {"fla": 6.0, "other": "not here"}
    row = bench.tell("a", 4.0, moved=2e9, flops=5e11, peers=peers, aims={"floor": 0.6, "fla": 1.2})
    assert (row["floor_ms"], row["fraction"], row["rate"], row["unit"]) == (2.0, 0.5, 500.0, "GB/s")
    assert row["ratios"] == {"fla": 1.5} and row["aims"] == {"floor": [0.6, 0.5], "fla": [1.2, 1.5]}
    row = bench.tell("b", 4.0, moved=1e9, flops=1e12)
    assert (row["floor_ms"], row["fraction"], row["rate"], row["unit"]) == (2.0, 0.5, 250.0, "TFLOP/s")


def test_fla_is_set_beside_our_row_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_page import joined

    ours = {"case": "forward 8", "ms": 2.0, "peers": {"torch": 9.0}, "ratios": {}, "aims": {"fla": [1.5, None]}}
    other = {"case": "forward 16", "ms": 2.0, "peers": {}, "ratios": {}, "aims": {"fla": [1.5, None]}}
    theirs = {"case": "forward 8", "ms": 5.0}
    joined({"sections": {"lightning": {"rows": [ours, other]}, "fla": {"rows": [theirs]}, "recurrent": {}}})
    assert ours["ratios"] == {"fla": 2.5} and ours["peers"] == {"torch": 9.0, "fla": 5.0}
    assert ours["aims"] == {"fla": [1.5, 2.5]} and other["aims"] == {"fla": [1.5, None]}


def test_the_whole_model_is_70_lightning_layers_10_softmax_layers_and_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_projection import projection

    assert projection({}) == ""
    facts = {
        "lightning int8 decode ms": {"16": 0.5},
        "softmax int8 decode ms": {"16": 0.4},
        "head ms": {"16": 1.0},
        "lightning int8 prefill ms": {"8192": 15.0},
        "softmax int8 prefill ms": {"8192": 20.0},
    }
    text = projection(facts)
    assert "int8 weights: 456 GB, which eight cards of 80 GB hold" in text and "bf16" not in text
    assert "= 40.0 ms a step" in text and ": 400 tokens/s" in text and "at once, one a stage: 3,200." in text
    assert "8.2 ms a step, 1,951 tokens/s" in text  # 40 / 8 and 160 sums of 0.02 ms
    assert "= 1,250 ms" in text and ": 6,554 tokens/s" in text and "slices: 52,429." in text
