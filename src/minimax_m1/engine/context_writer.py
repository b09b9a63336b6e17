"""`ContextWriter`: puts what a sequence remembers on disk as it is read, so that a kill loses only the last stretch.

In: all ids of the context, then the engine's `Snapshot`s. Out: parts, a state and a manifest in one folder. Every
save writes new files, replaces the manifest at one stroke and then removes what no manifest names any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from minimax_m1.engine import durable, manifest, tensor_file
from minimax_m1.engine.context import Context, check_model, claim, clear
from minimax_m1.engine.manifest import Manifest, Part, StateFile
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.engine.tensor_file import TensorSpec


class ContextWriter:
    """Writes the context of `ids` in `folder`, which it keeps to itself until it is closed.

    A folder without a context begins one; one whose ids begin these goes on, be it incomplete or extended. `past` is
    what is there already, `save` fits `Request.save`, and the context is complete with the last id. `created` is
    the time in seconds since 1970, for a new context.

    Raises:
        CheckpointError: the folder holds other ids, another model's context or no context at all, or another
            process writes to it.
    """

    def __init__(
        self,
        folder: Path,
        ids: NDArray[np.int32] | Sequence[int],
        *,
        fingerprint: str,
        dtype: str,
        vocab_size: int,
        created: float,
        meta: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._ids = np.ascontiguousarray(ids, dtype=np.int32)
        assert self._ids.ndim == 1 and len(self._ids)
        claim(folder)
        with ExitStack() as stack:
            stack.enter_context(durable.locked(folder))
            if (folder / manifest.NAME).exists():
                before = manifest.read(folder)
                check_model(folder, before, fingerprint, dtype)
                self._past = Context.open(folder) if before.tokens else None
                if self._past is not None:
                    self._past.check_begins(self._ids)
                self._record = replace(before, total=len(self._ids), meta=meta)
            else:
                before, self._past = None, None
                self._record = Manifest(
                    fingerprint=fingerprint,
                    dtype=dtype,
                    vocab_size=vocab_size,
                    created=created,
                    total=len(self._ids),
                    meta=meta,
                )
            if self._record != before:
                manifest.write(folder, self._record)
            clear(folder, self._record)
            self._lock = stack.pop_all()

    @property
    def past(self) -> Context | None:
        """What the folder held when the writer began; None for nothing."""
        return self._past

    @property
    def manifest(self) -> Manifest:
        """What is on disk now."""
        return self._record

    def save(self, snapshot: Snapshot) -> None:
        """Puts the snapshot's stretch on disk; it starts where the one before stopped. Raises OSError."""
        record = self._record
        assert snapshot.start == record.tokens < snapshot.stop <= len(self._ids)
        lightning = tuple(map(TensorSpec.of, snapshot.lightning))
        softmax = tuple(
            TensorSpec(shape=tuple(layer.shape[2:]), dtype=TensorSpec.of(layer).dtype) for layer in snapshot.keys_values
        )
        assert not record.tokens or (lightning, softmax) == (record.lightning, record.softmax)
        record = replace(record, tokens=snapshot.stop, lightning=lightning, softmax=softmax)
        ids = self._ids[snapshot.start : snapshot.stop]
        tensors = dict(zip(record.part_layout(len(ids)), (*snapshot.keys_values, torch.from_numpy(ids)), strict=True))
        file = f"part-{len(record.parts):05d}.safetensors"
        size, digest = durable.write(self._folder / file, tensor_file.pieces(tensors))
        ids_digest = hashlib.sha256(ids.data).hexdigest()
        part = Part(file=file, tokens=len(ids), bytes=size, sha256=digest, ids_sha256=ids_digest)
        file = f"state-{snapshot.stop}.safetensors"
        states = dict(zip(record.state_layout(), snapshot.lightning, strict=True))
        size, digest = durable.write(self._folder / file, tensor_file.pieces(states))
        state = StateFile(file=file, bytes=size, sha256=digest)
        record = replace(record, parts=(*record.parts, part), state=state)
        manifest.write(self._folder, record)
        self._record = record
        clear(self._folder, record)

    def close(self) -> None:
        """Lets go of the folder; what was saved stays, complete or not."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
