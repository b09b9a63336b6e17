"""`Context`: tokens that were read once and lie on disk with all that the model remembers of them; a `Past`.

In: a folder that `ContextWriter` filled. Out: its ids, its state, its keys and values, each file checked before
its values are used. Also what can be done with whole contexts: list, branch and delete them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine import durable, manifest
from minimax_m1.engine.manifest import Manifest, Part
from minimax_m1.engine.tensor_file import TensorFile
from minimax_m1.errors import CheckpointError

_THREADS = 8  # at most; one hashes about 2 GB/s
_GROUP = 16  # parts that are hashed together


class Context:
    """An open context. It stays readable while another process goes on writing to the folder.

    Raises:
        CheckpointError: at `open` and `load`: a file is missing, cut, altered or foreign, or belongs to another
            model; the message names it.
    """

    def __init__(self, folder: Path, record: Manifest, state: TensorFile, ids: NDArray[np.int32]) -> None:
        self.folder = folder
        self.manifest = record
        self._state = state
        self._ids = ids

    @classmethod
    def open(cls, folder: Path, *, fingerprint: str | None = None, dtype: str | None = None) -> Context:
        """Opens the context in `folder` for the model of that fingerprint and dtype; None checks neither."""
        while True:
            record = manifest.read(folder)
            check_model(folder, record, fingerprint, dtype)
            if record.state is None:
                raise CheckpointError(f"{folder} holds none of its {record.total:,} tokens yet")
            try:
                state = TensorFile(folder / record.state.file, record.state_layout(), record.state.bytes)
                break
            except CheckpointError:
                if manifest.read(folder) == record:  # else a writer went on between our two looks
                    raise
        ids = [_ids_of(folder, record, index) for index in range(len(record.parts))]
        return cls(folder, record, state, np.concatenate(ids))

    @property
    def ids(self) -> NDArray[np.int32]:
        """The tokens that were read, [n]."""
        return self._ids

    def load(self, put: Callable[[int, Sequence[Tensor]], None]) -> Sequence[Tensor]:
        """Gives keys and values to `put`, part by part, and returns the lightning states; see `Past.load`.

        The tensors are views of the files; writing to them changes neither files nor other readers.
        """
        record = self.manifest
        assert record.state is not None
        start = 0
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            state_checked = pool.submit(self._state.check, record.state.sha256)
            # A group is hashed on all cores and then copied on all cores: doing both at once takes longer, for
            # whoever copies waits for threads that hash.
            for first in range(0, len(record.parts), _GROUP):
                parts = record.parts[first : first + _GROUP]
                files = [self._part(part) for part in parts]
                for _ in pool.map(TensorFile.check, files, [part.sha256 for part in parts]):
                    pass
                for part, file in zip(parts, files, strict=True):
                    put(start, [file.tensor(f"keys_values.{layer}") for layer in range(len(record.softmax))])
                    start += part.tokens
            state_checked.result()
        return [self._state.tensor(f"state.{layer}") for layer in range(len(record.lightning))]

    def check_begins(self, ids: NDArray[np.int32]) -> None:
        """Raises CheckpointError, with the place, unless `ids` begins with what the context holds."""
        shared = min(len(self._ids), len(ids))
        differs = self._ids[:shared] != ids[:shared]
        if differs.any():
            place = int(differs.argmax())
            raise CheckpointError(
                f"{self.folder} holds another text: token {place:,} is {self._ids[place]} there and {ids[place]} in "
                "what was given"
            )
        if shared < len(self._ids):
            raise CheckpointError(
                f"{self.folder} holds {len(self._ids):,} tokens already, and what was given has only {shared:,}"
            )

    def verify(self) -> None:
        """Reads every byte of every file; raises CheckpointError where one is not as it was written."""
        self.load(lambda start, keys_values: None)

    def _part(self, part: Part) -> TensorFile:
        return TensorFile(self.folder / part.file, self.manifest.part_layout(part.tokens), part.bytes)


def check_model(folder: Path, record: Manifest, fingerprint: str | None, dtype: str | None) -> None:
    """Raises CheckpointError unless this model wrote the context; None checks neither."""
    if fingerprint is not None and record.fingerprint != fingerprint:
        raise CheckpointError(
            f"{folder / manifest.NAME} belongs to another model: its fingerprint is {record.fingerprint[:12]}, "
            f"this model's is {fingerprint[:12]}"
        )
    if dtype is not None and record.dtype != dtype:
        raise CheckpointError(f"{folder / manifest.NAME} was written in {record.dtype}; this model runs in {dtype}")


def contexts(folder: Path) -> Iterator[tuple[Path, Manifest | CheckpointError]]:
    """Every context that lies directly in `folder`, by name, or why one cannot be read; nothing for no folder."""
    if not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if (child / manifest.NAME).is_file():
            try:
                yield child, manifest.read(child)
            except CheckpointError as error:
                yield child, error


def branch(source: Path, target: Path) -> None:
    """Makes `target` a context of its own that holds what `source` holds now, in hard links where the disk has them.

    Raises:
        CheckpointError: `source` is no context, or `target` is there already.
    """
    record = manifest.read(source)
    claim(target)
    with durable.locked(target):
        if (target / manifest.NAME).exists():
            raise CheckpointError(f"{target} is a context already")
        while True:
            try:
                for file in record.files:
                    _link(source / file, target / file)
                break
            except FileNotFoundError as error:
                before, record = record, manifest.read(source)
                if record == before:
                    raise CheckpointError(f"{error.filename} is missing") from None
        durable.sync(target)
        manifest.write(target, record)
        clear(target, record)


def delete(folder: Path) -> None:
    """Removes a context, the manifest first, and its folder where nothing else is in it.

    Raises:
        CheckpointError: there is none, or it is being written.
    """
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    if not any(manifest.OWN.fullmatch(name) for name in names):
        raise CheckpointError(f"no context at {folder}")
    with durable.locked(folder):
        (folder / manifest.NAME).unlink(missing_ok=True)
        durable.sync(folder)
        clear(folder, None)
        (folder / durable.LOCK).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def claim(folder: Path) -> None:
    """Makes the folder, or takes one that is empty or holds a context; raises CheckpointError for any other."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a context is a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / manifest.NAME).exists():
        return
    if foreign := [child.name for child in folder.iterdir() if not manifest.OWN.fullmatch(child.name)]:
        raise CheckpointError(f"{folder} holds {min(foreign)!r} and no context; give a folder that is empty or new")


def clear(folder: Path, record: Manifest | None) -> None:
    """Removes those of our files that the manifest does not name: a dead writer's, and states that were replaced."""
    kept = {durable.LOCK, *((manifest.NAME, *record.files) if record else ())}
    for child in folder.iterdir():
        if child.name not in kept and manifest.OWN.fullmatch(child.name):
            child.unlink()


def _ids_of(folder: Path, record: Manifest, index: int) -> NDArray[np.int32]:
    part = record.parts[index]
    file = TensorFile(folder / part.file, record.part_layout(part.tokens), part.bytes)
    ids: NDArray[np.int32] = file.tensor("ids").numpy().copy()  # a view would hold the whole map open
    if hashlib.sha256(ids.data).hexdigest() != part.ids_sha256:
        raise CheckpointError(f"{folder / part.file} was altered: its ids are not those in the manifest")
    return ids


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy of it on disks without hard links; a leftover is replaced."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
