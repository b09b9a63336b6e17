"""Checkpoints on disk: a folder that is whole or not there, whatever happens while it is written.

In: a function that fills a folder. Out: the folder under its name, or the old one as it was. A new folder is written
beside the old, flushed to the disk, and only then takes its name; a kill, a full disk or a power cut at any moment
leaves one whole checkpoint, which `whole` finds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from safetensors import SafetensorError

from minimax_m1.engine.durable import sync
from minimax_m1.errors import DataError

R = TypeVar("R", bound="Overridable")


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


class Overridable(Protocol):
    """A recipe, as a checkpoint keeps it."""

    def to_dict(self) -> dict[str, Any]: ...
    def override(self, settings: Sequence[str]) -> Self: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Generic[R]):
    """A checkpoint's progress, its recipe with some settings changed, and which: for the program, and for the user."""

    progress: dict[str, Any]
    recipe: R
    changed: tuple[str, ...]
    notes: tuple[str, ...]


def resumed(
    folder: Path, read: Callable[[Mapping[str, Any]], R], settings: Sequence[str], fixed: Collection[str]
) -> Kept[R]:
    """What to go on with; raises DataError where there is no checkpoint, or a changed setting is a `fixed` one."""
    if not whole(folder):
        raise DataError(f"no checkpoint to resume in {folder}")
    progress: dict[str, Any] = json.loads((folder / "progress.json").read_text("utf-8"))
    was = read(progress["recipe"])
    recipe = was.override(settings)
    old, new = was.to_dict(), recipe.to_dict()
    changed = tuple(key for key, value in new.items() if old[key] != value)
    for key in changed:
        if key in fixed:
            raise DataError(f"the checkpoint in {folder} was trained with {key} {old[key]}, not {new[key]}")
    notes = (f"changed: {'; '.join(f'{key} {old[key]} -> {new[key]}' for key in changed)}",) if changed else ()
    return Kept(progress=progress, recipe=recipe, changed=changed, notes=notes)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")


def _settle(folder: Path) -> None:
    _, old = _beside(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
