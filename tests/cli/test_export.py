"""`minimax-m1 export`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

from gguf import GGUFReader
from typer.testing import CliRunner

from minimax_m1.cli.main import app


def test_export_writes_a_file_and_says_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "nano.gguf"
    done = CliRunner().invoke(app, ["export", "nano", "--to", "gguf", "--type", "q8_0", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["file"] == str(out) and told["type"] == "q8_0" and told["bytes"] == out.stat().st_size
    assert len(GGUFReader(out).tensors) == told["tensors"]


def test_export_refuses_a_type_that_it_does_not_know(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "nano", "--type", "q9", "--out", str(tmp_path / "x.gguf")])
    assert done.exit_code == 2 and "q9" in done.output and not list(tmp_path.iterdir())
