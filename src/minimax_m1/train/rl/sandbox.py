"""Python that a model wrote, run behind walls, for rewards that must see what a program does.

In: the program's text, its standard input, `Limits`. Out: `Ran`. The walls (`sandbox_child.py`) are the kernel's, and
need no privilege: limits of time and memory, Landlock for files, seccomp for the rest. They hold: one process without
threads or children, no network, no signals to others, no file read but Python's own library, none written but in a
temporary folder, which is deleted afterwards, and nothing of our environment.

They do not protect from: errors in the kernel, which the program talks to directly; many files at once, which may fill
the disk of the temporary folder until the clock runs out; the load of one core and the granted memory; what can be
measured of neighbours through caches. Strangers' programs at large belong into a virtual machine.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from minimax_m1.errors import DataError
from minimax_m1.train.rl import sandbox_child


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a program may use. `file_bytes` holds for each file; output beyond `output_bytes` is cut off."""

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    open_files: int = 32
    output_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ran. `status` is its exit status, or minus the signal that ended it.

    `timed_out`: it was killed after `wall_seconds`; `cut`: it wrote more than `output_bytes`. A status of 0 says only
    that the program ended so, by sys.exit(0) perhaps; grade what it wrote.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool = False
    cut: bool = False


def run_python(program: str, stdin: str = "", limits: Limits | None = None) -> Ran:
    """Runs a program with Python's own library and nothing installed; takes some 20 ms of a core besides.

    Raises:
        DataError: this machine cannot build the walls (they need Linux on x86-64 with Landlock), so nothing ran.
    """
    limits = limits or Limits()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        here = f"{sys.platform} on {platform.machine()}"
        raise DataError(f"programs are only run on Linux on x86-64, where they can be walled in; this is {here}")
    with (
        tempfile.TemporaryDirectory(prefix="minimax-m1-") as folder,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        (Path(folder) / sandbox_child.PROGRAM).write_text(program, "utf-8", "replace")
        given.write(stdin.encode("utf-8", "replace"))
        given.seek(0)
        start = time.monotonic()
        status, walled, timed_out = _run(folder, given, out, err, limits)
        seconds = time.monotonic() - start
        stdout, more = _read(out, limits.output_bytes)
        stderr, more_errors = _read(err, limits.output_bytes)
    if not walled and not timed_out:
        why = stderr.strip().splitlines()[-1:] or [f"status {status}"]
        raise DataError(f"the walls round a program cannot be built here: {why[0]}")
    return Ran(
        status=status, stdout=stdout, stderr=stderr, seconds=seconds, timed_out=timed_out, cut=more or more_errors
    )


def share_passed(program: str, cases: Sequence[tuple[str, str]], limits: Limits | None = None) -> float:
    """The share of cases (stdin, stdout) that the program answers and then ends well, spaces at the end aside; raises
    as `run_python` does.
    """
    assert cases, "a program without cases cannot be graded"
    runs = [(run_python(program, given, limits), wanted) for given, wanted in cases]
    return sum(ran.status == 0 and not ran.cut and _plain(ran.stdout) == _plain(wanted) for ran, wanted in runs) / len(
        runs
    )


def _run(folder: str, given: BinaryIO, out: BinaryIO, err: BinaryIO, limits: Limits) -> tuple[int, bool, bool]:
    """The exit status, whether the walls stood before the program began, and whether the clock ran out."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as told:
        with open(write, "wb", buffering=0):
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", sandbox_child.__file__, str(write), json.dumps(asdict(limits))],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
                pass_fds=[write],
                start_new_session=True,
            )
        timed_out = False
        try:
            process.wait(limits.wall_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, told.read(1) != b"", timed_out


def _read(file: BinaryIO, most: int) -> tuple[str, bool]:
    file.seek(0)
    data = file.read(most + 1)
    return data[:most].decode("utf-8", "replace"), len(data) > most


def _plain(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
