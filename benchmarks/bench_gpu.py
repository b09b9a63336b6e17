"""Checks and times every GPU kernel in one call of under ten minutes, and writes a page of what came out.

    PYTHONPATH=src python benchmarks/bench_gpu.py --out runs/gpu [--budget 540] [--only lightning,moe] [--commit ID]
    python benchmarks/bench_gpu.py --page --out runs/gpu [--record]     # the page anew from results.json, no GPU needed
    PYTHONPATH=src python benchmarks/bench_gpu.py --interpret --out DIR   # toy sizes in Triton's interpreter, on a CPU

First all kernels are compiled, in as many processes as there are cores, while the card's two ceilings are measured:
a large copy and a large bf16 product. Then one section after the other, the most important first, each in a process of
its own: a section that breaks or hangs costs only itself, and what it measured until then stays. A kernel whose answer
is off by more than its bound, against float64, is not timed. A section that does not fit the rest of the budget is
left out, and the page says so. fla-core takes part where it is on PYTHONPATH. `--record` appends to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from cells import circumstances, write
from gpu_page import joined, page, record, summary

HERE = Path(__file__).resolve().parent
MENDED = HERE.parent / "tests" / "kernels" / "triton" / "conftest.py"  # where the interpreter's faults are mended


@dataclass(frozen=True, slots=True)
class Section:
    """A function of a module, the seconds it should take, the most that it may, and what is compiled for it before:
    words of names in gpu_cases.py."""

    name: str
    module: str
    function: str
    seconds: int
    most: int
    cases: str = ""


SECTIONS = (
    Section("lightning", "gpu_lightning", "lightning", 45, 120, "lightning"),
    Section("recurrent", "gpu_lightning", "recurrent", 15, 45, "recurrent"),
    Section("blocks", "gpu_blocks", "blocks", 50, 130, "m1"),
    Section("moe", "gpu_experts", "moe", 40, 120, "moe"),
    Section("fla", "gpu_fla", "fla", 80, 160),
    Section("attention", "gpu_softmax", "attention", 25, 80, "paged_attention"),
    Section("nano", "gpu_nano", "end_to_end", 70, 170, "nano"),
    Section("head", "gpu_glue", "head", 25, 60, "head"),
    Section("glue", "gpu_glue", "glue", 25, 60, "norms,rope,route"),
)
ASKED = (Section("tune", "gpu_tune", "tune", 60, 500),)  # runs only where it is named
CEILINGS = Section("ceilings", "gpu_clock", "ceilings", 10, 60)
COMPILERS, COMPILING = 14, 120  # processes, and seconds for all of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "gpu")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--only", default="", help="sections, with commas between; all if not said")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    parser.add_argument("--interpret", action="store_true", help="toy sizes in Triton's interpreter: measures nothing")
    parser.add_argument("--page", action="store_true", help="writes the page of what is in OUT, and measures nothing")
    parser.add_argument("--record", action="store_true", help="with --page: appends a row to results.jsonl")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # this process is one section's
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.section:
        run_section(asked.section, asked.out, toy=asked.interpret)
    elif asked.page:
        show(asked.out)
        if asked.record:
            record(asked.out, HERE / "results.jsonl")
    else:
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """Everything that was asked for, into OUT."""
    begun = time.monotonic()
    toy = asked.interpret
    if not toy and not Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is None:
        print("left out: no NVIDIA GPU here; --interpret runs everything at toy sizes on the CPU")
        return
    if find_spec("triton") is None:
        sys.exit("Triton is not installed: pip install '.[gpu]' brings it")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # it is part of the cache's keys, which all processes share
    told: dict[str, Any] = {
        "toy": toy,
        "command": shlex.join(["python", *sys.argv]),
        "commit": asked.commit or circumstances()["commit"],
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "sections": {},
    }
    names = [name for name in asked.only.split(",") if name]
    unknown = set(names) - {section.name for section in (*SECTIONS, *ASKED)}
    if unknown:
        sys.exit(f"no section {sorted(unknown)}; there are {[each.name for each in (*SECTIONS, *ASKED)]}")
    sections = [each for each in (*SECTIONS, *ASKED) if each.name in names] if names else list(SECTIONS)
    words = ",".join(section.cases for section in sections if section.cases) if names else ""
    compilers = [] if toy or (names and not words) else compile_all(asked.out, words)
    first = run_child(CEILINGS, asked.out, CEILINGS.most, toy=toy)
    if not first.get("facts"):
        sys.exit(f"the card's ceilings could not be measured: {first['state']}")
    told["ceilings"] = first["facts"]
    told["compiled"] = wait_for(compilers, COMPILING)
    write(asked.out / "results.json", told)
    for section in sections:
        left = asked.budget - (time.monotonic() - begun)
        if left < section.seconds and not toy:
            told["sections"][section.name] = {"state": f"left out: {left:.0f} s were left of the budget"}
        else:
            limit = min(left, 600 if toy else section.most)
            told["sections"][section.name] = run_child(section, asked.out, limit, toy=toy)
        told["seconds"] = round(time.monotonic() - begun, 1)
        joined(told)
        write(asked.out / "results.json", told)
        show(asked.out)
    print(summary(told))


def compile_all(out: Path, words: str) -> list[subprocess.Popen[bytes]]:
    """Starts processes that compile every kernel into Triton's cache, and tell what each takes of the card."""
    started = []
    for number in range(COMPILERS):
        share = ["--share", f"{number}/{COMPILERS}", "--only", words, "--json", str(out / f"compiled-{number}.json")]
        with (out / f"compiled-{number}.log").open("wb") as log:
            command = [sys.executable, str(HERE / "gpu_resources.py"), *share]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    return started


def wait_for(started: list[subprocess.Popen[bytes]], seconds: float) -> dict[str, Any]:
    """How the compiling went; what is not done in time is stopped, and is then compiled where it is used."""
    begun = time.monotonic()
    late = 0
    for process in started:
        try:
            process.wait(max(0.1, begun + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            stop(process)
            late += 1
    return {"processes": len(started), "stopped": late, "seconds": round(time.monotonic() - begun, 1)}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it started: each has a session of its own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_child(section: Section, out: Path, limit: float, *, toy: bool) -> dict[str, Any]:
    """One section in a process of its own; what it wrote, and how it ended."""
    print(f"--- {section.name}", flush=True)
    file, begun = out / f"{section.name}.json", time.monotonic()
    file.unlink(missing_ok=True)
    environment = dict(os.environ)
    command = [sys.executable, __file__, "--section", section.name, "--out", str(out)]
    if toy:
        command.append("--interpret")
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(limit)
        state = "done" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        stop(process)
        state = f"stopped after {limit:.0f} s"
    wrote: dict[str, Any] = {}
    if file.is_file():
        wrote = json.loads(file.read_text("utf-8"), parse_constant=lambda name: None)  # no number is no figure
    file.unlink(missing_ok=True)
    return {"state": state, "seconds": round(time.monotonic() - begun, 1), **wrote}


def run_section(name: str, out: Path, *, toy: bool) -> None:
    """What the child does."""
    section = next(each for each in (CEILINGS, *SECTIONS, *ASKED) if each.name == name)
    if toy:
        mend_interpreter()
    import torch
    from gpu_clock import Absent, Bench, poison

    poison()
    torch.manual_seed(0)
    bench = Bench(section.name, torch.device("cpu" if toy else "cuda"), toy, out / f"{section.name}.json")
    if section is not CEILINGS:
        rates = json.loads((out / "results.json").read_text("utf-8"))["ceilings"]
        bench.copy_gbs, bench.matrix_tflops = rates["copy_gb_per_s"], rates["bf16_product_tflops"]
    try:
        run: Callable[[Bench], None] = getattr(import_module(section.module), section.function)
        run(bench)
    except (Absent, ImportError) as error:
        bench.faults[section.name] = f"left out: {error}"
        print(f"{section.name}: left out: {error}", flush=True)
    bench.keep()


def mend_interpreter() -> None:
    """As the tests do: products and conversions of bf16 and fp8 as a GPU makes them."""
    spec = spec_from_file_location("mended", MENDED)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module._interpreter.__wrapped__()


def show(out: Path) -> None:
    """Writes the page, from what is there."""
    results = out / "results.json"
    told = json.loads(results.read_text("utf-8")) if results.is_file() else None
    found: list[dict[str, Any]] = []
    for file in sorted(out.glob("compiled-*.json")):
        found += json.loads(file.read_text("utf-8"))
        file.unlink()
    for log in out.glob("compiled-*.log"):
        if "Traceback" not in log.read_text("utf-8", "replace"):  # what could not be compiled is worth reading
            log.unlink()
    resources = out / "resources.json"
    if found:
        resources.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n", "utf-8")
    compiled = json.loads(resources.read_text("utf-8")) if resources.is_file() else []
    (out / "README.md").write_text(page(told, compiled), "utf-8")


if __name__ == "__main__":
    main()
