"""Files: uploaded, listed, read, deleted; they lie in a folder, and what is known of each in the store.

In: forms and ids. Out: OpenAI's replies. A file is there once its record is, so a killed server leaves at most a
file without one, which is swept away later, as are files whose time is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from minimax_m1.serve.replies import json_reply
from minimax_m1.serve.service import Service
from minimax_m1.serve.uploads import read_upload
from minimax_m1.wire.body import read_query
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.files import DAY, Expiry, FileDeleted, FileList, FileObject, FileQuery, read_form

_log = logging.getLogger(__name__)
_SWEEP = 3600.0  # seconds between two sweeps
_ALIVE = DAY  # seconds after its last write that a file without a record may still be an upload under way


class Files:
    """The files of one home.

    Args:
        service: whose home and store these are.
        limit: most bytes of one file.
        clock: seconds since 1970.
    """

    def __init__(self, service: Service, *, limit: int = 512 * 2**20, clock: Callable[[], float] = time.time) -> None:
        self._store = service.store
        self._folder = service.home / "files"
        self._limit = limit
        self._clock = clock
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Sweeps now and then from now on."""
        self._sweeper = asyncio.create_task(self._sweep_on())

    async def close(self) -> None:
        """Stops sweeping."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def upload(self, request: Request) -> Response:
        """POST /v1/files. Raises RequestError, Fault (413) and ClientGone."""
        upload = await read_upload(request, self._folder, limit=self._limit)
        file_id = f"file-{upload.path.name}"
        try:
            form = read_form(upload.fields)
            expiry = form.expires_after
            if expiry is None and form.purpose == "batch":
                expiry = Expiry(anchor="created_at", seconds=30 * DAY)
            file = self._describe(file_id, upload.path, upload.filename, form.purpose, expiry)
            await self._store.put("file", file_id, file.model_dump())
        except BaseException:
            upload.path.unlink(missing_ok=True)
            await self._store.delete("file", file_id)  # a put that was cancelled may have happened
            raise
        return json_reply(file)

    async def page(self, query: Mapping[str, str]) -> Response:
        """GET /v1/files."""
        asked = read_query(FileQuery, query)
        having = {} if asked.purpose is None else {"purpose": asked.purpose}
        records = await self._store.list(
            "file", after=asked.after, limit=asked.limit + 1, descending=asked.order == "desc", having=having
        )
        files = [FileObject.model_validate(record) for record in records[: asked.limit]]
        files = [file for file in files if self._lasts(file)]
        first, last = (files[0].id, files[-1].id) if files else (None, None)
        return json_reply(FileList(data=files, first_id=first, last_id=last, has_more=len(records) > asked.limit))

    async def show(self, file_id: str) -> Response:
        """GET /v1/files/{file_id}."""
        return json_reply(await self.find(file_id))

    async def content(self, file_id: str) -> Response:
        """GET /v1/files/{file_id}/content: its bytes, read as they are sent."""
        file = await self.find(file_id)
        if not self.path(file.id).is_file():
            raise Fault(404, f"the content of {file_id!r} is gone", code="not_found", param="file_id")
        return FileResponse(self.path(file.id), filename=file.filename, media_type="application/octet-stream")

    async def remove(self, file_id: str) -> Response:
        """DELETE /v1/files/{file_id}. Who reads it now, reads it to its end."""
        await self.find(file_id)
        await self._drop(file_id)
        return json_reply(FileDeleted(id=file_id))

    async def find(self, file_id: str, *, param: str = "file_id") -> FileObject:
        """What is known of a file; raises Fault (404) where there is none or its time is over."""
        record = await self._store.get("file", file_id)
        file = None if record is None else FileObject.model_validate(record)
        if file is None or not self._lasts(file):
            raise Fault(404, f"there is no file {file_id!r}", code="not_found", param=param)
        return file

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file lie whose record is there."""
        return self._folder / file_id.removeprefix("file-")

    async def adopt(self, file_id: str, path: Path, filename: str, expiry: Expiry | None) -> None:
        """Makes what lies at `path` the output file `file_id`; done twice, it is done once."""
        if await self._store.get("file", file_id) is not None:
            return
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            await asyncio.to_thread(os.link, path, self.path(file_id))
        record = self._describe(file_id, path, filename, "batch_output", expiry)
        await self._store.put("file", file_id, record.model_dump())

    async def sweep(self) -> None:
        """Removes the files whose time is over, and old ones that nobody knows."""
        for record in await self._store.list("file", limit=2**62):
            if not self._lasts(FileObject.model_validate(record)):
                await self._drop(record["id"])
        for path in await asyncio.to_thread(self._old):
            if await self._store.get("file", f"file-{path.name}") is None:
                path.unlink(missing_ok=True)

    async def _sweep_on(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception as error:  # the boundary of a sweep; the next may do better
                _log.error("could not sweep the files", exc_info=error)
            await asyncio.sleep(_SWEEP)

    async def _drop(self, file_id: str) -> None:
        if await self._store.delete("file", file_id):
            await asyncio.to_thread(self.path(file_id).unlink, missing_ok=True)

    def _old(self) -> list[Path]:
        """Files to which nothing was written for so long that no upload can be behind them."""
        paths = self._folder.iterdir() if self._folder.is_dir() else ()
        old = []
        for path in paths:
            with suppress(FileNotFoundError):  # another server was quicker
                if self._clock() - path.stat().st_mtime > _ALIVE:
                    old.append(path)
        return old

    def _lasts(self, file: FileObject) -> bool:
        return file.expires_at is None or self._clock() < file.expires_at

    def _describe(self, file_id: str, path: Path, filename: str, purpose: Any, expiry: Expiry | None) -> FileObject:
        now = int(self._clock())
        return FileObject(
            id=file_id,
            bytes=path.stat().st_size,
            created_at=now,
            expires_at=None if expiry is None else now + expiry.seconds,
            filename=filename,
            purpose=purpose,
        )
