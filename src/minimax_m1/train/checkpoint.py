"""Checkpoints on disk: a folder that is whole or not there, whatever happens while it is written.

In: a function that fills a folder. Out: the folder under its name, or the old one as it was. A new folder is written
beside the old, flushed to the disk, and only then takes its name; a kill, a full disk or a power cut at any moment
leaves one whole checkpoint, which `whole` finds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from minimax_m1.engine.durable import sync


def write(folder: Path, fill: Callable[[Path], None]) -> None:
    """Writes `folder` anew through `fill(new folder)`; raises OSError, the old one untouched, where it cannot."""
    fresh, old = _beside(folder)
    _settle(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        for path in [*fresh.rglob("*"), fresh]:
            sync(path)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, RuntimeError | SafetensorError):  # what torch and safetensors make of a full disk
            raise OSError(str(error).splitlines()[0]) from None
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def whole(folder: Path) -> bool:
    """Whether there is a checkpoint; brings back the old one where a kill came between the two renames."""
    _settle(folder)
    return folder.is_dir()


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")


def _settle(folder: Path) -> None:
    _, old = _beside(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
