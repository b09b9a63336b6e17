"""Settings that every test shares: hypothesis draws the same cases on every run and never fails for slowness.

Also what the tests of training and of its command share: a random model, and a user's chats.
OpenMP's threads give way soon, as under the command line, so that tests beside other programs do not crawl. Kernels for
GPUs run in Triton's interpreter where there is no GPU; it is told so before anything loads Triton.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # read when torch is loaded
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out for want of Triton."""
    if importlib.util.find_spec("triton") is None:
        terminalreporter.write_line(
            "Left out: the kernels for GPUs (tests/kernels/triton), since Triton is not installed; "
            "`make test GPU=1` installs it, 1 GB, and tests them, without a GPU in Triton's interpreter."
        )


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the tiny recipe, as a folder."""
    from minimax_m1.train.recipes import recipe
    from minimax_m1.train.run import Run

    folder = tmp_path_factory.mktemp("start") / "model"
    Run.begin(recipe("tiny")).finish(folder)
    return folder


@pytest.fixture(scope="session")
def pretending() -> Callable[..., None]:
    """Runs a script in a process that can pretend to have a GPU (pretend_gpu.py); what fails there fails here."""
    import torch
    from torch.utils import backend_registration

    if torch.cuda.is_available() or not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has a GPU, or cannot be given a device of ours")

    def run(script: str, *arguments: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A file of twelve short chats."""
    lines = [
        {"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": f"{n} is a cat."}]}
        for n in range(12)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path
