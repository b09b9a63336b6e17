"""The board: what TensorBoard's own reader finds in the event files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from minimax_m1.train.board import Board


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each curve as TensorBoard shows it: (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {
        name: [(event.step, round(event.value, 4)) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }


def test_the_numbers_of_a_step_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    assert board.on
    board.write(10, {"step": 10, "tokens": 4000, "loss": 2.5, "told": "words", "good": True, "nothing": None})
    board.write(20, {"step": 20, "tokens": 8000, "loss": 1.25})
    assert curves(tmp_path / "board") == {"tokens": [(10, 4000), (20, 8000)], "loss": [(10, 2.5), (20, 1.25)]}
    board.close()


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    killed = Board(tmp_path)
    for step in (10, 20, 30, 40):
        killed.write(step, {"loss": step})
    resumed = Board(tmp_path, step=20)  # the checkpoint's
    for step in (30, 40, 50):
        resumed.write(step, {"loss": step + 0.5})
    assert curves(tmp_path)["loss"] == [(10, 10), (20, 20), (30, 30.5), (40, 40.5), (50, 50.5)]
    anew = Board(tmp_path)
    anew.write(10, {"loss": 7})
    assert curves(tmp_path)["loss"] == [(10, 7)]
    for board in (killed, resumed, anew):
        board.close()


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = Board(tmp_path / "board")
    board.write(1, {"loss": 1.0})
    board.close()
    assert not board.on and not (tmp_path / "board").exists()
