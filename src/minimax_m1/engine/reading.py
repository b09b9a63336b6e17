"""`Reading`: what is to be put on disk, and whether that begins a context, goes on with one, or fits none.

In: a folder, the model, ids, and `meta`, what the text floor wants to know again. Out: a `Reading`, whose writer knows
what is there already; or a CheckpointError that says why the folder cannot take it. Ids come as a callable, because
making them takes a while: whatever can be refused without them is refused first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.engine import manifest
from minimax_m1.engine.context import Context, check_model
from minimax_m1.engine.context_writer import ContextWriter
from minimax_m1.engine.manifest import Manifest
from minimax_m1.errors import CheckpointError, ContextLengthExceeded

Ids = NDArray[np.int32]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The model whose contexts these are: see `Manifest`."""

    fingerprint: str
    dtype: str
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All ids that a folder is to hold, be they there or not, and what is known beside them."""

    folder: Path
    owner: Owner
    ids: Ids
    meta: Mapping[str, Any]
    created: float  # seconds since 1970, for a new context

    def writer(self) -> ContextWriter:
        """Opens the folder for this process alone; raises CheckpointError as `ContextWriter` does."""
        return ContextWriter(
            self.folder,
            self.ids,
            fingerprint=self.owner.fingerprint,
            dtype=self.owner.dtype,
            vocab_size=self.owner.vocab_size,
            created=self.created,
            meta=self.meta,
        )


def create_text(
    folder: Path, owner: Owner, ids: Callable[[], Ids], *, sources: Sequence[str], created: float, model: str | None
) -> Reading:
    """To read texts called `sources` into a new context, or to go on with one that was cut short.

    `model` is the name to open the model by, kept for those who ask.

    Raises:
        CheckpointError: the folder holds another text, another model's context or something else.
    """
    before = _existing(folder, owner, "text")
    if before is not None and before.meta["start"] and not before.complete:
        raise CheckpointError(f"{folder} is being extended; finish that with the same `context extend`")
    made = ids()
    if before is not None and before.complete and len(made) > before.tokens:
        Context.open(folder).check_begins(made)
        raise CheckpointError(
            f"{folder} is complete with {before.tokens:,} tokens, and the text given now has {len(made):,}; "
            "extend it, or give another folder"
        )
    meta = before.meta if before else {"kind": "text", "sources": [*sources], "start": 0, "model": model}
    return Reading(folder=folder, owner=owner, ids=made, meta=meta, created=created)


def extend_text(folder: Path, owner: Owner, tail: Callable[[], Ids], *, sources: Sequence[str], limit: int) -> Reading:
    """To read more texts at the end of a complete context, or to go on with an extension that was cut short.

    `tail` gives the ids that the texts add. Nothing is left to do where the context ends with just these texts
    already, as its last extension.

    Raises:
        CheckpointError: there is no complete context of texts, or another extension is under way.
        ContextLengthExceeded: there would be `limit` ids or more.
    """
    record = _checked(folder, owner, "text")
    start = int(record.meta["start"])
    if not record.complete and not start:
        raise CheckpointError(f"{folder} is not complete; finish it with the same `context create` first")
    there, more, meta = Context.open(folder).ids, tail(), record.meta
    ids = np.concatenate((there[:start], more))
    if record.complete and not (start and np.array_equal(ids, there)):  # not the last extension once more
        ids = np.concatenate((there, more))
        meta = {**meta, "start": record.tokens, "sources": [*meta["sources"], *sources]}
    if len(ids) >= limit:
        raise ContextLengthExceeded(
            f"the context would have {len(ids):,} tokens, and the model takes {limit:,}, the question and its answer "
            "among them",
            param="input",
        )
    return Reading(folder=folder, owner=owner, ids=ids, meta=meta, created=record.created)


def create_chat(
    folder: Path,
    owner: Owner,
    ids: Callable[[], Ids],
    *,
    messages: Sequence[Message],
    created: float,
    model: str | None,
) -> Reading:
    """To read a conversation into a context, or to go on; one that begins with the messages there extends it.

    Raises:
        CheckpointError: the folder holds another conversation, another model's context or something else.
    """
    _existing(folder, owner, "chat")
    meta = {"kind": "chat", "messages": [dict(message) for message in messages], "model": model}
    return Reading(folder=folder, owner=owner, ids=ids(), meta=meta, created=created)


def extend_chat(
    folder: Path,
    owner: Owner,
    ids: Callable[[Sequence[Message]], Ids],
    *,
    messages: Sequence[Message],
) -> Reading:
    """To read more messages at the end of a complete conversation, or to go on where just these were cut short.

    `ids` gives those of a whole conversation.

    Raises:
        CheckpointError: there is no complete conversation, or another reading of it was cut short.
    """
    record = _checked(folder, owner, "chat")
    there, more = list(record.meta["messages"]), [dict(message) for message in messages]
    if record.complete:
        there += more
    elif there[-len(more) :] != more:
        raise CheckpointError(f"{folder} is not complete; finish it with what began it first")
    meta = {**record.meta, "messages": there}
    return Reading(folder=folder, owner=owner, ids=ids(there), meta=meta, created=record.created)


def _existing(folder: Path, owner: Owner, kind: str) -> Manifest | None:
    """What this model has in `folder`, if anything."""
    return _checked(folder, owner, kind) if (folder / manifest.NAME).exists() else None


def _checked(folder: Path, owner: Owner, kind: str) -> Manifest:
    record = manifest.read(folder)
    check_model(folder, record, owner.fingerprint, owner.dtype)
    if (found := record.meta.get("kind")) != kind:
        raise CheckpointError(f"{folder} holds a context of the kind {found!r}; this needs one of the kind {kind!r}")
    return record
