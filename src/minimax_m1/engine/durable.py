"""Files that a power cut or a kill cannot leave half-written: whole and on disk, or not there at all.

In: a path and the pieces of its content. Out: its size and sha256. Also the lock that keeps a folder to one writer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minimax_m1.errors import CheckpointError

LOCK, NEW = "lock", ".new"  # the lock's name, and how the name of a file ends while it is being written


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Writes the pieces under another name, syncs them, puts the file in its place and syncs the folder.

    A file that was there is replaced, never changed: hard links to it keep what they had. Raises OSError.
    """
    new = path.with_name(path.name + NEW)
    digest, size = hashlib.sha256(), 0
    with new.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync(path.parent)
    return size, digest.hexdigest()


def sync(path: Path) -> None:
    """Puts a file's content, or a folder's list of names, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which goes with the process; raises CheckpointError where another holds it."""
    path = folder / LOCK
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            ours = False
        if not ours:  # held, or removed with its folder between our opening it and our locking it
            raise CheckpointError(f"{folder} is being written by another process")
        yield
