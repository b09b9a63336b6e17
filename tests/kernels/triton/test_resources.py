"""Kernels compile for an H100 without one, and nothing of the cheap ones here spills."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu_resources.py"
CASES = "route nano 64,rope nano,recurrent nano 8,lightning nano pieces,rotate_and_store nano"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the script tells of a few cases."""
    folder = tmp_path_factory.mktemp("compiled")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(SCRIPT), "--only", CASES, "--json", str(folder / "told.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    told: list[dict[str, Any]] = json.loads((folder / "told.json").read_text("utf-8"))
    return told


def test_every_case_compiles(compiled: list[dict[str, Any]]) -> None:
    told = {case for row in compiled for case in row["cases"]}
    for name in CASES.split(","):
        assert any(name in case for case in told), f"{name} is not among {sorted(told)}"


def test_nothing_spills_and_every_block_fits(compiled: list[dict[str, Any]]) -> None:
    for row in compiled:
        where = f"{row['cases'][0]}, {row['kernel']}"
        assert row["spilled"] == 0, f"{where} spills {row['spilled']} bytes"
        assert row["shared"] <= 227 * 1024, f"{where} takes {row['shared']} bytes"
        assert row["blocks"] >= 1, f"{where} does not fit an SM"


def test_the_scan_of_lightning_attention_runs_on_matrix_units_and_loads_ahead(
    compiled: list[dict[str, Any]],
) -> None:
    scans = [row for row in compiled if row["kernel"].startswith("lightning.") and row["matrix"]]
    assert scans, [row["kernel"] for row in compiled]
    assert any(row["copies"] for row in scans), "no load runs beside the work on the block before"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_resources", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_resources"] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_resources"]


def test_a_launch_is_recorded_and_does_not_happen(script: Any) -> None:
    import triton
    from triton.runtime.jit import JITFunction

    def kernel(x_ptr, SIZE: triton.language.constexpr) -> None:  # type: ignore[no-untyped-def]
        triton.language.store(x_ptr + triton.language.arange(0, SIZE), 1)

    x, run = torch.zeros(16, device="meta"), JITFunction.run
    with script.recorded() as launches:
        JITFunction(kernel)[lambda meta: (meta["SIZE"], 2)](x, SIZE=16, num_warps=2)
    assert JITFunction.run is run
    (launch,) = launches
    assert launch.grid == (16, 2) and launch.keywords == {"SIZE": 16, "num_warps": 2} and launch.args[0] is x


def test_blocks_of_an_sm_follow_from_registers_shared_memory_and_warps(script: Any) -> None:
    assert script._blocks(registers=32, shared=0, warps=4) == 16  # 64 warps
    assert script._blocks(registers=255, shared=0, warps=4) == 2  # 65,536 registers, 256 a thread
    assert script._blocks(registers=32, shared=100 * 1024, warps=4) == 2  # 228 KB, one of each block the system's
    assert script._blocks(registers=32, shared=0, warps=1) == 32


def test_global_loads_are_told_apart_by_their_bytes(script: Any) -> None:
    ptx = """
    @%p1 ld.global.L1::evict_first.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    ld.global.v2.b64 { %rd2, %rd3 }, [ %rd4 + 0 ];
    @%p2 ld.global.b16 { %rs1 }, [ %rd5 + 0 ];
    ld.shared.v4.b32 { %r5, %r6, %r7, %r8 }, [ %r9 + 0 ];
    """
    assert script._loads(ptx) == {16: 2, 2: 1}
