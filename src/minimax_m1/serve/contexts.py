"""Contexts on this server's disk: opened for whoever asks, described, branched, deleted. Files alone hold them.

In: ids, which are names of folders under the home's `contexts`, the same that `minimax-m1 context` uses. Out: an open
`Context`, `ContextReply`s, or a Fault: 404 where there is none, 409 where it cannot be had now, 500 where it is broken.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minimax_m1.engine import context as on_disk
from minimax_m1.engine import manifest
from minimax_m1.engine.context import Context, check_model
from minimax_m1.engine.manifest import Manifest
from minimax_m1.errors import CheckpointError
from minimax_m1.serve.registry import Entry
from minimax_m1.serve.service import Service
from minimax_m1.wire.contexts import ContextReply
from minimax_m1.wire.errors import Fault

READING = "context"  # the kind of a reading among the requests that are under way
FAILED = "context_failure"  # the store's kind of record for a reading in the background that failed
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def folder_of(service: Service, id: str) -> Path:
    """Where a context lies; raises Fault (404) for what no context can be called."""
    if not _ID.fullmatch(id):
        raise _missing(id)
    return service.home / "contexts" / id


def reading_of(service: Service, id: str) -> Entry | None:
    """The reading of a context that is under way here."""
    return next((entry for entry in service.registry if entry.kind == READING and entry.context == id), None)


def reading_id(id: str) -> str:
    """Under which id the reading of a context is listed among the requests."""
    return f"reading-{id}"


def conflict(error: CheckpointError, folder: Path, id: str) -> Fault:
    """What is told of a context that cannot take what was asked; where it lies is nobody's business."""
    return Fault(409, _told(error, folder, id), code="context_conflict")


async def open_context(service: Service, id: str) -> Context:
    """The context of this id, ready to be asked.

    Raises:
        Fault: there is none (404), it is not complete or another model's (409), or it is broken (500).
    """
    loaded = service.bridge.loaded
    folder = folder_of(service, id)

    def opened() -> Context:
        record = _manifest(folder, id)
        try:
            check_model(folder, record, loaded.fingerprint, loaded.dtype)
        except CheckpointError as error:
            raise conflict(error, folder, id) from None
        if not record.complete:
            said = f"the context {id!r} is not complete: {record.tokens} of its {record.total} tokens have been read"
            raise Fault(409, said, code="context_not_ready", param="context_id")
        try:
            return Context.open(folder)
        except CheckpointError as error:
            raise Fault(500, _told(error, folder, id), code="context_damaged", param="context_id") from None

    return await asyncio.to_thread(opened)


async def find(service: Service, id: str) -> ContextReply:
    """What is known of a context; raises Fault (404) where that is nothing."""
    folder, reading = folder_of(service, id), reading_of(service, id)
    failure = await service.store.get(FAILED, id)
    try:
        record = await asyncio.to_thread(_manifest, folder, id)
    except Fault as fault:
        if fault.status == 404 and reading is None and failure is None:
            raise
        return _described(id, None, reading, {"error": str(fault)} if fault.status != 404 else failure)
    return _described(id, record, reading, failure)


async def find_all(service: Service) -> list[ContextReply]:
    """The same of all contexts, by id."""
    found = await asyncio.to_thread(lambda: list(on_disk.contexts(service.home / "contexts")))
    failures = {each["id"]: each for each in await service.store.list(FAILED, limit=2**62)}
    replies = {}
    for folder, each in found:
        id, record = folder.name, each if isinstance(each, Manifest) else None
        if not _ID.fullmatch(id):
            continue
        failure = {"error": _told(each, folder, id)} if isinstance(each, CheckpointError) else failures.get(id)
        replies[id] = _described(id, record, reading_of(service, id), failure)
    begun = {entry.context for entry in service.registry if entry.kind == READING and entry.context is not None}
    for id in (begun | failures.keys()) - replies.keys():
        replies[id] = _described(id, None, reading_of(service, id), failures.get(id))
    return [replies[id] for id in sorted(replies)]


async def branch(service: Service, id: str, name: str) -> None:
    """Makes `name` a context of its own that holds what `id` holds now; raises Fault (404, 409)."""
    source, target = folder_of(service, id), folder_of(service, name)
    if reading_of(service, name) is not None:
        raise Fault(409, f"the context {name!r} is being read", code="context_busy", param="name")
    await asyncio.to_thread(_manifest, source, id)
    await _changed(lambda: on_disk.branch(source, target), target, name)
    await service.store.delete(FAILED, name)


async def delete(service: Service, id: str) -> None:
    """Removes a context; raises Fault where there is none (404), or it is being read or asked (409)."""
    folder = folder_of(service, id)
    if reading_of(service, id) is not None:
        raise Fault(409, f"the context {id!r} is being read; cancel {reading_id(id)!r} first", code="context_busy")
    if any(entry.context == id for entry in service.registry):
        raise Fault(409, f"the context {id!r} is being asked", code="context_busy")
    failed = await service.store.delete(FAILED, id)
    if await asyncio.to_thread((folder / manifest.NAME).exists):
        await _changed(lambda: on_disk.delete(folder), folder, id)
    elif not failed:
        raise _missing(id)


async def _changed(work: Callable[[], None], folder: Path, id: str) -> None:
    try:
        await asyncio.to_thread(work)
    except CheckpointError as error:
        raise conflict(error, folder, id) from None


def _manifest(folder: Path, id: str) -> Manifest:
    if not (folder / manifest.NAME).exists():
        raise _missing(id)
    try:
        return manifest.read(folder)
    except CheckpointError as error:
        raise Fault(500, _told(error, folder, id), code="context_damaged", param="context_id") from None


def _described(id: str, record: Manifest | None, reading: Entry | None, failure: dict[str, Any] | None) -> ContextReply:
    """`record` None stands for a context of which nothing is on disk yet, or nothing that can be read."""
    meta = {} if record is None else record.meta
    if reading is not None:
        status = "reading"
    elif record is not None and record.complete:
        status = "ready"
    else:
        status = "incomplete" if failure is None else "failed"
    total = record.total if record is not None else None
    if reading is not None and reading.prompt_tokens:
        total = reading.prompt_tokens
    created = (each.created for each in (record, reading) if each is not None)
    return ContextReply.model_validate(
        {
            "id": id,
            "created": int(next(created, (failure or {}).get("created", 0))),
            "status": status,
            "kind": meta.get("kind"),
            "tokens": record.tokens if record is not None else 0,
            "total": total,
            "bytes": record.nbytes if record is not None else 0,
            "model": meta.get("model"),
            "sources": list(meta.get("sources", ())),
            "messages": len(meta.get("messages", ())),
            "error": None if failure is None or reading is not None else failure["error"],
        }
    )


def _told(error: CheckpointError, folder: Path, id: str) -> str:
    return str(error).replace(str(folder), f"the context {id!r}")


def _missing(id: str) -> Fault:
    return Fault(404, f"there is no context {id!r}", code="context_not_found", param="context_id")
