"""The official openai-node client against nano; `make conformance` installs it into a folder that it names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("openai_node.mjs")


@pytest.mark.conformance
def test_openai_node(url: str) -> None:
    folder, node = os.environ.get("OPENAI_NODE"), shutil.which("node")
    if folder is None or node is None:
        pytest.skip("needs Node 20 and OPENAI_NODE, a folder with npm's `openai` and `zod`; see `make conformance`")
    run = subprocess.run(
        [node, str(SCRIPT)],
        env={**os.environ, "BASE_URL": url},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("ok ") == SCRIPT.read_text().count('  async "')
