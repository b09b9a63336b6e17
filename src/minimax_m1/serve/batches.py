"""Batches: files of requests that are worked off behind everyone else's, however often the server restarts.

In: OpenAI's requests for batches, and `dispatch`, which answers one request of each endpoint. Out: OpenAI's replies,
and files of answers. A batch is a record in the store and a folder, locked by the server that works on it; another
server of the same home takes over what a dead one left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json
from starlette.responses import Response

from minimax_m1.engine.durable import locked
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.serve.connection import fault_of
from minimax_m1.serve.files import Files
from minimax_m1.serve.registry import request_id
from minimax_m1.serve.replies import json_reply
from minimax_m1.serve.service import Service
from minimax_m1.serve.store import Edit, Record
from minimax_m1.serve.worksheet import ERRORS, INPUT, OUTPUT, Worksheet, check
from minimax_m1.wire.batches import (
    UNFINISHED,
    Answered,
    Batch,
    BatchError,
    BatchErrors,
    BatchLine,
    BatchList,
    BatchRequest,
    LineError,
    LineReply,
)
from minimax_m1.wire.body import read, read_query
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.files import DAY, Expiry, PageQuery

_log = logging.getLogger(__name__)
_BUSY = (429, 503)  # the server has no room, or no model yet; such a line is asked again

Dispatch = Mapping[str, Callable[[Service, bytes], Awaitable[Response]]]
_NOT_ASKED = {
    "cancelled": ("batch_cancelled", "this request was not made because the batch was cancelled"),
    "expired": ("batch_expired", "this request could not be made before the completion window was over"),
}


class Batches:
    """The batches of one home.

    Args:
        service: whose home and store these are; passed on to `dispatch`.
        dispatch: an endpoint's path -> what answers one request of it.
        files: where inputs come from and outputs go.
        concurrency: most requests that are under way at once, over all batches.
        pulse: seconds between two looks at the clock and at whether someone cancelled.
        patrol: seconds between two looks for batches that nobody works on.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        service: Service,
        dispatch: Dispatch,
        files: Files,
        *,
        concurrency: int = 16,
        pulse: float = 1.0,
        patrol: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._store = service.store
        self._dispatch = dispatch
        self._files = files
        self._folder = service.home / "batches"
        self._slots = asyncio.Semaphore(concurrency)
        self._pulse = pulse
        self._patrol = patrol
        self._clock = clock
        self._working: dict[str, asyncio.Task[None]] = {}
        self._patrolling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up every batch that is unfinished and that no other server works on."""
        self._patrolling = asyncio.create_task(self._patrol_on())

    async def close(self) -> None:
        """Stops; what is under way will be asked again at the next start."""
        tasks = [*self._working.values(), *([self._patrolling] if self._patrolling else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, body: bytes) -> Response:
        """POST /v1/batches. Raises RequestError, and Fault (404) where there is no such file."""
        asked = read(BatchRequest, body)
        if asked.endpoint not in self._dispatch:
            served = ", ".join(self._dispatch)
            raise RequestError(f"endpoint {asked.endpoint!r} is none of {served}", param="endpoint")
        file = await self._files.find(asked.input_file_id, param="input_file_id")
        if file.purpose != "batch":
            message = f"the file {file.id!r} was uploaded for {file.purpose!r}, not for 'batch'"
            raise RequestError(message, param="input_file_id")
        now = int(self._clock())
        batch = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            model=self._service.name,
            created_at=now,
            expires_at=now + asked.seconds,
            **asked.model_dump(include={"endpoint", "input_file_id", "completion_window", "metadata"}),
        )
        await asyncio.to_thread(self._lay_out, self._files.path(file.id), self._folder / batch.id)
        expiry = asked.output_expires_after
        kept = {"output_expires_after": None if expiry is None else expiry.model_dump()}
        await self._store.put("batch", batch.id, batch.model_dump() | kept)
        self._take_up(batch.id)
        return json_reply(batch)

    async def page(self, query: Mapping[str, str]) -> Response:
        """GET /v1/batches."""
        asked = read_query(PageQuery, query)
        records = await self._store.list("batch", after=asked.after, limit=asked.limit + 1)
        batches = [Batch.model_validate(record) for record in records[: asked.limit]]
        first, last = (batches[0].id, batches[-1].id) if batches else (None, None)
        return json_reply(BatchList(data=batches, first_id=first, last_id=last, has_more=len(records) > asked.limit))

    async def show(self, batch_id: str) -> Response:
        """GET /v1/batches/{batch_id}."""
        return json_reply(await self._find(batch_id))

    async def cancel(self, batch_id: str) -> Response:
        """POST /v1/batches/{batch_id}/cancel. Within a second, what is under way is dropped."""
        now = int(self._clock())

        def cancelling(record: Record) -> Record:
            if record["status"] not in ("validating", "in_progress", "cancelling"):
                raise RequestError(f"the batch {batch_id!r} is {record['status']} and cannot be cancelled")
            return record | {"status": "cancelling", "cancelling_at": record["cancelling_at"] or now}

        await self._find(batch_id)
        return json_reply(await self._change(batch_id, cancelling))

    async def _find(self, batch_id: str) -> Batch:
        record = await self._store.get("batch", batch_id)
        if record is None:
            raise Fault(404, f"there is no batch {batch_id!r}", code="not_found", param="batch_id")
        return Batch.model_validate(record)

    async def _change(self, batch_id: str, edit: Callable[[Record], Record]) -> Batch:
        """The batch as `edit` makes it, no other server writing in between."""

        def known(record: Record | None) -> Record:
            assert record is not None, "batches are never deleted"
            return edit(record)

        careful: Edit = known
        return Batch.model_validate(await self._store.change("batch", batch_id, careful))

    def _lay_out(self, source: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        try:
            os.link(source, folder / INPUT)  # the client may delete its file
        except FileNotFoundError:
            folder.rmdir()
            raise Fault(404, "the input file is gone", code="not_found", param="input_file_id") from None

    async def _patrol_on(self) -> None:
        while True:
            try:
                for status in UNFINISHED:
                    for record in await self._store.list("batch", limit=2**62, having={"status": status}):
                        self._take_up(record["id"])
                await self._clean()
            except Exception as error:  # the boundary of a round; the next may do better
                _log.error("could not look for batches", exc_info=error)
            await asyncio.sleep(self._patrol)

    async def _clean(self) -> None:
        """Removes folders of batches that are over, and old ones of batches that never came to be."""
        folders = list(self._folder.iterdir()) if self._folder.is_dir() else []
        for folder in folders:
            record = await self._store.get("batch", folder.name)
            if record is None and self._clock() - folder.stat().st_mtime < DAY:
                continue
            if (record is None or record["status"] not in UNFINISHED) and folder.name not in self._working:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _take_up(self, batch_id: str) -> None:
        if batch_id not in self._working:
            task = asyncio.create_task(self._work(batch_id))
            self._working[batch_id] = task
            task.add_done_callback(lambda _: self._working.pop(batch_id, None))

    async def _work(self, batch_id: str) -> None:
        folder = self._folder / batch_id
        try:
            with locked(folder):
                await self._finish(await self._find(batch_id), folder)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        except CheckpointError:
            pass  # another server works on it, or has just finished it
        except FileNotFoundError as error:
            await self._fail(
                batch_id, [BatchError(code="file_missing", message=f"a file of the batch is gone: {error}")]
            )
        except Exception as error:  # the boundary of a batch; it will be taken up again
            _log.error("the batch %s stopped", batch_id, exc_info=error)

    async def _fail(self, batch_id: str, errors: list[BatchError]) -> None:
        failure = {"status": "failed", "failed_at": int(self._clock()), "errors": BatchErrors(data=errors).model_dump()}
        await self._change(batch_id, lambda record: record | (failure if record["status"] in UNFINISHED else {}))

    async def _finish(self, batch: Batch, folder: Path) -> None:
        """Takes the batch from wherever it stands to its end."""
        if batch.status == "validating":
            total, errors = await asyncio.to_thread(check, folder / INPUT, batch.endpoint)
            if errors:
                return await self._fail(batch.id, errors)
            batch = await self._change(batch.id, self._validated(total))
        if batch.status not in UNFINISHED:
            return
        sheet = Worksheet(folder)
        try:
            await asyncio.to_thread(sheet.open)
            fate = await self._answer_lines(batch, sheet)
            if fate is not None:
                await asyncio.to_thread(_give_up, sheet, *_NOT_ASKED[fate])
        finally:
            await asyncio.to_thread(sheet.close)
        await self._conclude(batch, folder, sheet)

    def _validated(self, total: int) -> Callable[[Record], Record]:
        now = int(self._clock())

        def validated(record: Record) -> Record:
            started = {"status": "in_progress", "in_progress_at": now} if record["status"] == "validating" else {}
            return record | started | {"request_counts": {"total": total, "completed": 0, "failed": 0}}

        return validated

    async def _answer_lines(self, batch: Batch, sheet: Worksheet) -> str | None:
        """Asks what has no answer yet; says "cancelled" or "expired" where it was not let finish."""
        asking = asyncio.create_task(self._ask_all(batch, sheet))
        try:
            while True:
                batch = await self._note(batch, sheet)
                if batch.status == "cancelling":
                    return "cancelled"
                if asking.done():
                    await asking
                    return None
                if self._clock() >= batch.expires_at:
                    return "expired"
                await asyncio.wait({asking}, timeout=self._pulse)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _note(self, batch: Batch, sheet: Worksheet) -> Batch:
        """The batch as it is in the store now, with today's counts."""
        counts, usage = sheet.counts.model_dump(exclude={"total"}), sheet.usage.model_dump()

        def noted(record: Record) -> Record:
            return record | {"request_counts": record["request_counts"] | counts, "usage": usage}

        now = await self._find(batch.id)
        told = now.request_counts.model_dump(exclude={"total"}) == counts
        return now if told else await self._change(batch.id, noted)

    async def _ask_all(self, batch: Batch, sheet: Worksheet) -> None:
        lines = sheet.unanswered()
        async with asyncio.TaskGroup() as group:
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                await self._slots.acquire()
                asking = group.create_task(self._ask(batch.endpoint, line, sheet))
                asking.add_done_callback(lambda _: self._slots.release())

    async def _ask(self, endpoint: str, line: BatchLine, sheet: Worksheet) -> None:
        """Asks one line, until the server has room for it, and writes the answer down."""
        id = uuid.uuid4().hex
        request_id.set(f"batch_req_{id}")
        body = to_json(line.body)
        for pause in chain((1, 2, 4, 8), repeat(15)):
            status, said = await self._said(endpoint, body)
            if status not in _BUSY:
                break
            await asyncio.sleep(pause)
        reply = LineReply(status_code=status, request_id=f"req_{id}", body=said)
        answered = Answered(id=f"batch_req_{id}", custom_id=line.custom_id, response=reply)
        await asyncio.to_thread(sheet.append, answered)

    async def _said(self, endpoint: str, body: bytes) -> tuple[int, Any]:
        try:
            response = await self._dispatch[endpoint](self._service, body)
            return response.status_code, from_json(bytes(response.body))
        except Exception as error:  # the boundary of a request, as in app.py
            fault = fault_of(error)
            return fault.status, fault.reply.model_dump()

    async def _conclude(self, batch: Batch, folder: Path, sheet: Worksheet) -> None:
        """Hands the answers over as files; done again after a kill, it does only what is missing."""
        now = int(self._clock())

        def finalizing(record: Record) -> Record:
            late = record["status"] == "in_progress"
            return record | ({"status": "finalizing", "finalizing_at": now} if late else {})

        batch = await self._change(batch.id, finalizing)
        record = await self._store.get("batch", batch.id)
        assert record is not None
        expiry = record["output_expires_after"]
        ids: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}
        for key, name in zip(ids, (OUTPUT, ERRORS), strict=True):
            if (folder / name).stat().st_size:
                ids[key] = f"file-{batch.id.removeprefix('batch_')}-{name.removesuffix('.jsonl')}"
                expires = None if expiry is None else Expiry.model_validate(expiry)
                await self._files.adopt(ids[key] or "", folder / name, f"{batch.id}_{name}", expires)
        fate = "cancelled" if batch.status == "cancelling" else "expired" if sheet.expired else "completed"
        counts, usage = sheet.counts.model_dump(exclude={"total"}), sheet.usage.model_dump()
        end = {"status": fate, f"{fate}_at": int(self._clock()), "usage": usage, **ids}
        await self._change(
            batch.id, lambda record: record | end | {"request_counts": record["request_counts"] | counts}
        )


def _give_up(sheet: Worksheet, code: str, message: str) -> None:
    """Gives every line without an answer the reason why there is none."""
    error = LineError(code=code, message=message)
    ids = [line.custom_id for line in sheet.unanswered()]
    sheet.append(*(Answered(id=f"batch_req_{uuid.uuid4().hex}", custom_id=id, error=error) for id in ids))
