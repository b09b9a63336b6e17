"""What each GPU kernel takes of an H100, from the compiler alone: no GPU is needed.

    python benchmarks/gpu_resources.py [--only lightning,moe] [--share 0/8] [--list] [--json FILE]

The real host code runs on tensors without data (device "meta") and its launches are caught and compiled for sm_90 as
Triton would: registers, spilled bytes (stack and local), shared memory, warps, blocks an SM can hold, which matrix
instructions there are, and how wide global memory is read. Cases are in gpu_cases.py. Needs triton and its cache
folder (TRITON_CACHE_DIR); TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

ARCH = 90
# Of one SM of an H100; memory is handed out in these units (CUDA's occupancy calculator).
REGISTERS, REGISTER_UNIT, WARPS, BLOCKS = 65_536, 256, 64, 32
SHARED, SHARED_OF_SYSTEM, SHARED_LIMIT = 233_472, 1024, 232_448


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel as the host code called it."""

    kernel: Any
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    grid: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one compiled kernel takes; `loads` by their bytes a thread, `copies` those that pass registers by."""

    case: str
    kernel: str
    grid: tuple[int, ...]
    settings: dict[str, Any]
    warps: int
    stages: int
    registers: int
    spilled: int
    shared: int
    blocks: int
    matrix: str
    loads: dict[int, int]
    copies: dict[int, int]
    seconds: float
    times: int = 1

    @property
    def fits(self) -> bool:
        """Whether it can run at all."""
        return self.shared <= SHARED_LIMIT and self.blocks > 0


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches of the block's host code, none of which happens."""
    import torch
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    autocast = torch.is_autocast_enabled

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        if callable(grid):
            names = dict(zip(self.arg_names, args, strict=False))
            grid = grid({**names, **keywords})
        launches.append(Launch(self, args, keywords, tuple(map(int, grid))))

    def never_on_meta(device: str = "cuda") -> bool:  # torch itself refuses the question
        return device != "meta" and autocast(device)

    with patch.object(JITFunction, "run", record), patch.object(torch, "is_autocast_enabled", never_on_meta):
        yield launches


def compiled(launch: Launch) -> tuple[Any, dict[str, Any]]:
    """The kernel for sm_90, specialised as the launcher would, and its constants by name."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", ARCH, 32)
    backend = make_backend(target)
    kernel, keywords = launch.kernel, {"debug": False, **launch.keywords}
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *launch.args, **keywords
    )
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    named = {kernel.arg_names[path[0]]: value for path, value in constants.items() if len(path) == 1}
    settings = {
        name: value for name, value in named.items() if kernel.params[kernel.arg_names.index(name)].is_constexpr
    }
    return compile(source, target=target, options=options.__dict__), settings


def resources(case: str, launch: Launch) -> Resources:
    """Compiles a launch and reads what came out."""
    begun = time.monotonic()
    built, settings = compiled(launch)
    ptx = built.asm["ptx"]
    usage = _usage(built.asm["cubin"])
    shared, warps = int(built.metadata.shared), int(built.metadata.num_warps)
    return Resources(
        case=case,
        kernel=f"{launch.kernel.module.split('.')[-2]}.{launch.kernel.__name__}",
        grid=launch.grid,
        settings={name: value for name, value in settings.items() if isinstance(value, int | float | str | None)},
        warps=warps,
        stages=int(built.metadata.num_stages),
        registers=usage["REG"],
        spilled=usage["STACK"] + usage["LOCAL"],
        shared=shared,
        blocks=_blocks(usage["REG"], shared, warps),
        matrix="wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else "",
        loads=_loads(ptx),
        copies=dict(Counter(int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\S* .*?, (0x\w+)", ptx))),
        seconds=round(time.monotonic() - begun, 1),
    )


def _usage(cubin: bytes) -> dict[str, int]:
    import triton.backends.nvidia as nvidia

    tool = Path(str(nvidia.__file__)).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def _blocks(registers: int, shared: int, warps: int) -> int:
    """Blocks that one SM holds at a time."""
    of_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    return min(BLOCKS, WARPS // warps, REGISTERS // (of_warp * warps), SHARED // (shared + SHARED_OF_SYSTEM))


def _loads(ptx: str) -> dict[int, int]:
    """Global loads by their bytes a thread."""
    counts: Counter[int] = Counter()
    for many, bits in re.findall(r"\bld\.global\S*?(?:\.v(\d))?\.[bfus](\d+)\s", ptx):
        counts[int(many or 1) * int(bits) // 8] += 1
    return dict(sorted(counts.items(), reverse=True))


def measure(
    cases: Mapping[str, Callable[[], None]], say: Callable[[str], None]
) -> tuple[list[Resources], dict[str, str]]:
    """Each case's kernels, each kernel once a case; and what kept a case from being measured."""
    found: list[Resources] = []
    faults: dict[str, str] = {}
    for name, case in cases.items():
        try:
            mine = of_case(name, case)
        except Exception as error:  # one kernel that does not compile keeps no other one from being told
            faults[name] = f"{type(error).__name__}: {error}"
            say(f"{name}: FAILED, {''.join(traceback.format_exception(error, limit=-4))}")
            continue
        for told in mine:
            say(line(told))
        found += mine
    return found, faults


def of_case(name: str, case: Callable[[], None]) -> list[Resources]:
    """A case's kernels, each kernel once."""
    with recorded() as launches:
        case()
    mine: dict[str, Resources] = {}
    for launch in launches:
        told = resources(name, launch)
        key = str((told.kernel, told.settings, told.registers, told.shared))
        mine[key] = replace(mine[key], times=mine[key].times + 1) if key in mine else told
    return list(mine.values())


def distinct(found: Sequence[Resources]) -> list[dict[str, Any]]:
    """Each kernel and configuration once, with the cases that it came up in."""
    kept: dict[str, dict[str, Any]] = {}
    for told in found:
        row = {name: value for name, value in asdict(told).items() if name not in ("case", "grid", "seconds", "times")}
        cases = kept.setdefault(json.dumps(row), {"cases": [], **row})["cases"]
        if told.case not in cases:
            cases.append(told.case)
    return list(kept.values())


def line(told: Resources) -> str:
    """One kernel in one line."""
    faults = "" if told.fits else "  DOES NOT FIT"
    faults += f"  SPILLS {told.spilled}" if told.spilled else ""
    wide = "+".join(f"{count}x{size}" for size, count in told.loads.items()) or "none"
    copies = "+".join(f"{count}x{size}" for size, count in told.copies.items()) or "none"
    settings = " ".join(f"{name}={value}" for name, value in told.settings.items())
    return (
        f"{told.case}: {told.kernel} grid {'x'.join(map(str, told.grid))}: {told.registers} registers, "
        f"{told.shared / 1024:.1f} KB, {told.warps} warps, {told.stages} stages, {told.blocks} blocks an SM, "
        f"{told.matrix or 'no matrix unit'}, loads {wide}, cp.async {copies} [{settings}]{faults}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="parts of cases' names, with commas between; all if not said")
    parser.add_argument("--share", default="0/1", help="I/N: only each N-th case from the I-th on")
    parser.add_argument("--list", action="store_true", help="names the cases")
    parser.add_argument("--json", type=Path, help="writes everything to this file")
    asked = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        sys.exit("TRITON_INTERPRET is set: the interpreter compiles nothing")
    if find_spec("triton") is None:
        sys.exit("Triton is not installed: pip install '.[gpu]' brings it")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as it is on a GPU; 3.9 asks for it to be said
    from gpu_cases import cases

    parts = [part for part in asked.only.split(",") if part]
    chosen = {name: case for name, case in cases().items() if not parts or any(part in name for part in parts)}
    if not chosen:
        sys.exit(f"no case's name has {' or '.join(parts)} in it; --list names them")
    first, step = map(int, asked.share.split("/"))
    chosen = dict(list(chosen.items())[first::step])
    if asked.list:
        print("\n".join(chosen))
        return
    found, faults = measure(chosen, lambda text: print(text, flush=True))
    if asked.json is not None:
        lines = ",\n".join(json.dumps(row) for row in distinct(found))
        asked.json.write_text(f"[\n{lines}\n]\n", "utf-8")
    bad = [told for told in found if told.spilled or not told.fits]
    print(f"{len(found)} kernels, {len(bad)} of them spill or do not fit; {len(faults)} cases failed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
