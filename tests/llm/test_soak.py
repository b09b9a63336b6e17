"""Minutes of mixed requests on one engine; benchmarks/soak.py says what must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_every_answer_of_a_soak_is_the_one_given_alone() -> None:
    command = [sys.executable, str(SCRIPT), "--minutes", "2", "--requests", "102"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    report = json.loads(run.stdout[run.stdout.index("{") :])
    assert report["requests"] > 200
