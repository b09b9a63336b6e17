"""The stopwatch of bench_gpu.py: the card's two ceilings, times against floors, and no time without a right answer.

In: calls, what they must move and compute, and what they should have given in float64. Out: rows, written to the
section's file as they come, so that a section that hangs or breaks the card loses nothing that was measured.
Times are medians over CUDA events, the second cache emptied before each call, or replays of a CUDA graph that goes
through enough sets of inputs that none is left there; outside of them, new memory is full of NaN. Asked to interpret,
the same code runs once at toy sizes, on a CPU: such times measure nothing and are marked so.
"""

from __future__ import annotations

import gc
import json
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLD = 200e6  # bytes of inputs after which nothing of the first is left in the second cache
LOW = torch.bfloat16
SLOW = 200.0  # milliseconds from which on three calls tell enough
NO_NUMBER = 1e99  # how an error is told that is infinite, or none: JSON has no word for it
BOUND = 1.2e-2  # of a bf16 output's norm, against float64 on the same inputs


class Wrong(Exception):
    """A kernel's answer is off by more than its bound, so that its time is of no interest."""


class Absent(Exception):
    """What a peer or a measurement needs is not here; says what."""


@dataclass(slots=True)
class Bench:
    """What the sections share: where and how large things are, the ceilings, and the rows so far."""

    section: str
    device: torch.device
    toy: bool
    file: Path
    copy_gbs: float = float("nan")
    matrix_tflops: float = float("nan")
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # what a section tells beside rows
    faults: dict[str, str] = field(default_factory=dict)  # what was left out, and why

    def pick(self, real: Any, toy: Any) -> Any:
        """The size that is meant here."""
        return toy if self.toy else real

    def keep(self) -> None:
        """Writes everything so far."""
        told = {name: getattr(self, name) for name in ("rows", "checks", "facts", "faults")}
        self.file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """One part of a section: where it fails, the others go on."""
        try:
            yield
        except Exception as error:  # a boundary: what one kernel does wrong says nothing of the next one
            self.faults[name] = f"{type(error).__name__}: {str(error)[:600]}"
            print(f"[{self.section}] {name} FAILED: {traceback.format_exc(limit=-5)}", flush=True)
            self.keep()
            if not self.toy:
                torch.cuda.synchronize()  # raises again where the card answers nobody in this process any more
        finally:
            self.release()

    def random(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        """Fresh normal numbers."""
        out = torch.randn(shape, device=self.device, dtype=dtype or LOW)
        return out if scale == 1 else out.mul_(scale)

    def check(self, name: str, got: Mapping[str, Tensor], want: Mapping[str, Tensor], bound: float) -> float:
        """The largest relative error of some outputs; raises Wrong where one is above the bound or no number."""
        errors = {part: off(got[part], want[part]) for part in want}
        worst = max(errors, key=lambda part: errors[part])
        right = errors[worst] <= bound
        told = {part: float(f"{min(error, NO_NUMBER):.2e}") for part, error in errors.items()}
        self.checks.append({"section": self.section, "check": name, "errors": told, "bound": bound, "right": right})
        self.keep()
        if not right:
            raise Wrong(f"{name}: {worst} is off by {errors[worst]:.1e} of its norm, more than {bound:.0e}")
        return errors[worst]

    def time(self, call: Callable[[], object], *, least: float = 100.0) -> float:
        """Milliseconds of a call, the median of as many as fit `least` milliseconds."""
        with unpoisoned():
            if self.toy:
                begun = time.perf_counter()
                call()
                return 1e3 * (time.perf_counter() - begun)
            from triton.testing import do_bench

            call()
            once = _between(call)
            if once > SLOW:  # do_bench would call it eight times at least
                return sorted([once, _between(call), _between(call)])[1]
            return float(do_bench(call, warmup=least / 4, rep=least, return_mode="median"))

    def replay(self, calls: Sequence[Callable[[], object]], *, least: float = 50.0) -> float:
        """Milliseconds of one call, where all of them follow each other in one CUDA graph."""
        if self.toy:
            return self.time(calls[0])
        with unpoisoned():
            return _replayed(calls, least)

    def tell(
        self,
        case: str,
        ms: float,
        *,
        moved: float = 0.0,
        flops: float = 0.0,
        error: float | None = None,
        peers: Mapping[str, float | str] | None = None,
        aims: Mapping[str, float] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Keeps a row: time, what it says of bytes `moved` and `flops`, of peers' milliseconds (or why there are none).

        `aims`: least values of "floor" (a fraction) or of a peer's time over ours, as the issue set them.
        """
        floor = max(moved / (self.copy_gbs * 1e6), flops / (self.matrix_tflops * 1e9))
        by_flops = flops / (self.matrix_tflops * 1e9) > moved / (self.copy_gbs * 1e6)
        reached = {"floor": floor / ms} | {n: t / ms for n, t in (peers or {}).items() if not isinstance(t, str)}
        row = {
            "section": self.section,
            "case": case,
            "ms": ms,
            "rate": flops / ms / 1e9 if by_flops else moved / ms / 1e6,
            "unit": "TFLOP/s" if by_flops else "GB/s",
            "floor_ms": floor,
            "fraction": floor / ms,
            "error": None if error is None else float(f"{error:.2e}"),
            "peers": dict(peers or {}),
            "ratios": {name: ratio for name, ratio in reached.items() if name != "floor"},
            "aims": {name: [least, reached.get(name)] for name, least in (aims or {}).items()},
            **more,
        }
        self.rows.append(row)
        self.keep()
        print(line(row), flush=True)
        return row

    def peer(self, call: Callable[[], Callable[[], object]], *, least: float = 60.0) -> float | str:
        """A peer's milliseconds, or why it has none: it is not here, or has not the memory."""
        try:
            return self.time(call(), least=least)
        except (ImportError, Absent) as error:
            return f"not here: {error}"
        except torch.OutOfMemoryError:
            return "out of memory"
        except (RuntimeError, ValueError, TypeError) as error:  # another's code, and one row of many
            return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        finally:
            self.release()

    def release(self) -> None:
        """Gives back what is not held."""
        if not self.toy:
            gc.collect()
            torch.cuda.empty_cache()

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Bytes that the block takes at most beyond what is held already; in a list of one once it is over."""
        told: list[float] = []
        if self.toy:
            yield told
            told.append(0.0)
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield told
        torch.cuda.synchronize()
        told.append(float(torch.cuda.max_memory_allocated() - before))


def _replayed(calls: Sequence[Callable[[], object]], least: float) -> float:
    """`Bench.replay` on a GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:  # what is loaded or compiled first may not be so while a graph is recorded
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    _between(graph.replay)
    once = _between(graph.replay)
    many = max(1, min(100, round(2 / once)))  # in a row, so that the host is ahead of the card
    times = [_between(lambda: [graph.replay() for _ in range(many)]) for _ in range(max(5, int(least / once / many)))]
    return sorted(times)[len(times) // 2] / many / len(calls)


def poison() -> None:
    """From now on new memory is full of NaN, so that what a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", message=".*deterministic")


@contextmanager
def unpoisoned() -> Iterator[None]:
    """Not so in the block, which is timed."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


def _between(call: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def off(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in float64; infinite where a number is none."""
    got, exact = got.detach().double(), want.detach().double()
    error = float((got - exact).norm() / exact.norm().clamp(min=1e-300))
    return error if error == error else float("inf")


def line(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    error = "" if row["error"] is None else f", error {row['error']:.1e}"
    peers = "".join(f", {n} {t:.3f} ms" if not isinstance(t, str) else f", {n} {t}" for n, t in row["peers"].items())
    return (
        f"[{row['section']}] {row['case']}: {row['ms']:.4f} ms, {row['rate']:.0f} {row['unit']}, "
        f"{row['fraction']:.0%} of the floor{error}{peers}"
    )


def ceilings(bench: Bench) -> None:
    """The two rates that every floor is worked out from."""
    size, side = bench.pick(4 * 2**30, 2**20), bench.pick(8192, 64)
    source = torch.empty(size, dtype=torch.uint8, device=bench.device).random_()
    target = torch.empty_like(source)
    bench.copy_gbs = 2 * size / bench.time(lambda: target.copy_(source), least=200) / 1e6
    a, b = (bench.random(side, side) for _ in range(2))
    bench.matrix_tflops = 2 * side**3 / bench.time(lambda: a @ b, least=300) / 1e9
    bench.facts = {"copy_gb_per_s": bench.copy_gbs, "bf16_product_tflops": bench.matrix_tflops, **versions(bench)}
    print(f"copy {bench.copy_gbs:,.0f} GB/s (read + written), product {bench.matrix_tflops:,.0f} TFLOP/s", flush=True)
    bench.keep()


def versions(bench: Bench) -> dict[str, str]:
    """The card, its driver and what runs on it."""
    import triton

    told = {"torch": str(torch.__version__), "triton": str(triton.__version__)}
    if bench.toy:
        return told
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip().split(", ")
    names = ("gpu", "driver", "memory")
    return told | dict(zip(names, said, strict=False)) | {"cuda": str(torch.version.cuda)}
