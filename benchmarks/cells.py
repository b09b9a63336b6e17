"""Cells of a long measurement: each a process of its own with one thread, so many at a time, none done twice.

In: the names of those that are not done, and how many processes. The script that asks is started anew with its own
arguments and `--cell NAME`; what that says goes to FOLDER/NAME.log. Out: nothing but what the cells wrote; a cell that
fails is told at the end and keeps no other one from running. Ctrl-C and SIGTERM reach the cells, which may save.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import Any

_LOOK = 0.2  # seconds between two looks at the processes


def run_cells(names: Sequence[str], folder: Path, *, jobs: int, after: Callable[[], None]) -> None:
    """Runs the cells, `jobs` at a time, and calls `after` as each is done; raises SystemExit naming failed ones."""
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"stopped by signal {number}"))
    waiting, failed = list(names), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    begun = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = _started(name, folder / f"{name}.log")
            time.sleep(_LOOK)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if code := running.pop(name).returncode:
                    failed.append(f"{name} ended with code {code}, see {folder / name}.log")
                else:
                    after()
                minutes = (time.monotonic() - begun) / 60
                left = len(waiting) + len(running)
                print(
                    f"{minutes:.1f} min: {name} {'failed' if code else 'done'}, {left} to go",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        raise SystemExit("\n".join([*failed, "the same command tries these again"]))


def _started(name: str, log: Path) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C at the terminal comes here first, and from here once.
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, *sys.argv, "--cell", name],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def write(file: Path, told: Any) -> None:
    """JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", "utf-8")
    fresh.replace(file)


def kept(file: Path, setting: dict[str, Any]) -> dict[str, Any] | None:
    """What a cell wrote before, None if nothing; raises SystemExit where that was measured under other settings."""
    if not file.is_file():
        return None
    told: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if told["setting"] != json.loads(json.dumps(setting)):
        raise SystemExit(f"{file} was measured with {told['setting']}, not {setting}: give another --out")
    return told


def circumstances() -> dict[str, Any]:
    """Command, machine and sources, for the record."""
    commit = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(commit, capture_output=True, text=True, cwd=Path(__file__).parent) if which("git") else None
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "kind": platform.machine()},
        "python": platform.python_version(),
        "commit": "" if done is None else done.stdout.strip(),
    }
