"""`Board`: a run's figures for TensorBoard, where it is installed (the extra `train`).

In: a folder, and the figures of a step. Out: an event file in the folder; `tensorboard --logdir FOLDER` shows it.
A resumed run says at which step it goes on, and what an earlier process wrote from there on is not shown twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Writes event files into `folder`; `on` is False, and nothing is written, where TensorBoard is not installed.

    Args:
        folder: made if need be.
        step: the last step that counts: 0 for a new run, the checkpoint's step for a resumed one.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        assert step >= 0
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(folder, purge_step=step + 1)

    @property
    def on(self) -> bool:
        """Whether TensorBoard is there."""
        return self._writer is not None

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """The numbers among a step's figures, on the disk when this returns; the step itself is no curve."""
        if self._writer is None:
            return
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Ends the writing thread."""
        if self._writer is not None:
            self._writer.close()
