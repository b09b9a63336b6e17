"""Checkpoints: whole or not there, whatever stops the writing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimax_m1.train import checkpoint


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.write(folder, lambda fresh: (fresh / "a").write_text("1") and None)
    checkpoint.write(folder, lambda fresh: (fresh / "b").write_text("2") and None)
    assert [path.name for path in folder.iterdir()] == ["b"] and os.listdir(tmp_path) == ["checkpoint"]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.write(folder, lambda fresh: (fresh / "a").write_text("good") and None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(OSError):
            checkpoint.write(folder, lambda fresh: (fresh / "a").write_bytes(bytes(20_000)) and None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (folder / "a").read_text() == "good" and os.listdir(tmp_path) == ["checkpoint"]


def test_a_kill_between_the_renames_brings_the_old_one_back(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.write(folder, lambda fresh: (fresh / "a").write_text("good") and None)
    folder.rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()
    assert checkpoint.whole(folder) and (folder / "a").read_text() == "good"
    assert not checkpoint.whole(tmp_path / "nothing")


WRITER = """
import sys
from pathlib import Path
from minimax_m1.train import checkpoint

def fill(fresh):
    for name in "ab":
        (fresh / name).write_text(str(number) * 100_000)

number = 0
while True:
    checkpoint.write(Path(sys.argv[1]), fill)
    number += 1
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    for wait in (0.0, 0.003, 0.011, 0.023):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait)
        child.kill()
        child.wait()
        child.stdout.close()
        assert checkpoint.whole(folder)
        assert (folder / "a").read_text() == (folder / "b").read_text() != ""
