"""The routes of `/v1/contexts`: bodies and forms become readings, questions, branches; what comes of them is told.

In: requests, the files that were uploaded before. Out: replies, or events of a reading. The texts of a form's file
are read from where the upload lies, which is gone when they have been read.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minimax_m1.engine import reading
from minimax_m1.engine.reading import Owner, Reading
from minimax_m1.serve import contexts
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import EventStream, fault_of, read_body, unless_gone
from minimax_m1.serve.files import Files
from minimax_m1.serve.native import generated
from minimax_m1.serve.reading import Step, read
from minimax_m1.serve.replies import json_reply
from minimax_m1.serve.service import Service
from minimax_m1.serve.uploads import read_upload
from minimax_m1.text.document import chat_ids, tail_ids, text_ids
from minimax_m1.text.streaming import TextSource
from minimax_m1.wire import body
from minimax_m1.wire.contexts import (
    AskContext,
    BranchContext,
    ContextDeleted,
    ContextList,
    ContextProgress,
    CreateContext,
    CreateForm,
    ExtendContext,
    HowToRead,
    ReadForm,
)
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import plain
from minimax_m1.wire.sse import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What to read: texts by name, or messages; and the upload that is spent then."""

    texts: Mapping[str, TextSource]
    messages: Sequence[Mapping[str, Any]] | None = None
    spent: Path | None = None


class ContextRoutes:
    """The contexts of one home.

    Args:
        service: whose contexts these are.
        files: those that `file_id` names.
        body_limit: most bytes of a body in JSON.
        upload_limit: most bytes of a file in a form.
    """

    def __init__(self, service: Service, files: Files, *, body_limit: int, upload_limit: int) -> None:
        self._service = service
        self._files = files
        self._body_limit = body_limit
        self._upload_limit = upload_limit
        self._readings: set[asyncio.Task[None]] = set()  # those in the background
        # Long texts wait for each other here and not for the threads in which everybody's requests are prepared.
        self._pool = ThreadPoolExecutor(1, "minimax-m1-contexts")

    async def close(self) -> None:
        """Ends the readings in the background; what they saved stays."""
        for task in self._readings:
            task.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)
        self._pool.shutdown(wait=False)

    async def create(self, request: Request) -> Response:
        """POST /v1/contexts, with a body in JSON or a form.

        Raises:
            RequestError: the body or the text cannot be read.
            Fault: there is no such model or file (404), it is too long (413), or the context cannot take it (409).
        """
        asked, material = await self._asked(request, CreateContext, CreateForm)
        assert isinstance(asked, CreateContext | CreateForm)

        async def begin() -> Response:
            check_model(asked.model, self._service.name)
            return await self._read(asked.name or _new_id(), self._new, asked, material)

        return await _unless_gone(begin(), request, material)

    async def extend(self, context_id: str, request: Request) -> Response:
        """POST /v1/contexts/{context_id}/extend; raises as `create` does."""
        asked, material = await self._asked(request, ExtendContext, ReadForm)

        async def begin() -> Response:
            await contexts.find(self._service, context_id)
            return await self._read(context_id, self._longer, asked, material)

        return await _unless_gone(begin(), request, material)

    async def list(self) -> Response:
        """GET /v1/contexts."""
        return json_reply(ContextList(data=await contexts.find_all(self._service)))

    async def show(self, context_id: str) -> Response:
        """GET /v1/contexts/{context_id}; raises Fault (404)."""
        return json_reply(await contexts.find(self._service, context_id))

    async def remove(self, context_id: str) -> Response:
        """DELETE /v1/contexts/{context_id}; raises Fault (404, 409)."""
        await contexts.delete(self._service, context_id)
        return json_reply(ContextDeleted(id=context_id))

    async def branch(self, context_id: str, data: bytes) -> Response:
        """POST /v1/contexts/{context_id}/branch; raises RequestError and Fault (404, 409)."""
        name = body.read(BranchContext, data or b"{}").name or _new_id()
        await contexts.branch(self._service, context_id, name)
        return json_reply(await contexts.find(self._service, name))

    async def ask(self, context_id: str, data: bytes) -> Response:
        """POST /v1/contexts/{context_id}/ask; answers and raises as the native dialect does."""
        return await generated(self._service, body.read(AskContext, data).generation(context_id))

    async def _asked(
        self, request: Request, model: type[ExtendContext], form: type[ReadForm]
    ) -> tuple[HowToRead, _Material]:
        """What a request says, and what it brings; raises RequestError, Fault and ClientGone."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            asked = body.read(model, await read_body(request, self._body_limit))
            return asked, await self._material(asked)
        # Should the server be killed meanwhile, what lies there without a record is swept away with the files.
        upload = await read_upload(request, self._service.home / "files", limit=self._upload_limit)
        try:
            fields = form.of(upload.fields)
        except BaseException:
            upload.path.unlink(missing_ok=True)
            raise
        return fields, _Material(texts={upload.filename or "file": upload.path}, spent=upload.path)

    async def _material(self, asked: ExtendContext) -> _Material:
        if asked.messages is not None:
            return _Material(texts={}, messages=plain(asked.messages))
        if asked.file_id is not None:
            file = await self._files.find(asked.file_id)
            return _Material(texts={file.filename or file.id: self._files.path(file.id)})
        return _Material(texts={"text": asked.text} if asked.text is not None else asked.texts or {})

    async def _read(
        self, id: str, plan: Callable[[Path, _Material], Reading], asked: HowToRead, material: _Material
    ) -> Response:
        folder = contexts.folder_of(self._service, id)
        await self._service.store.delete(contexts.FAILED, id)
        _ = self._service.bridge.loaded  # a reading that cannot begin is refused, in the background too
        steps = read(self._service, id, partial(plan, folder, material), pool=self._pool, save_every=asked.save_every)
        steps = _spending(steps, material)
        await anext(steps)  # comes at once, so that a stream begins while the text is still being encoded
        if asked.stream:
            return EventStream(self._events(id, steps), ping=self._service.ping)
        if asked.background:
            reply = await contexts.find(self._service, id)
            task = asyncio.create_task(self._finish(id, steps))
            self._readings.add(task)
            task.add_done_callback(self._readings.discard)
            return json_reply(reply, 202)
        async with aclosing(steps):
            async for _ in steps:
                pass
        return json_reply(await contexts.find(self._service, id))

    async def _finish(self, id: str, steps: AsyncGenerator[Step, None]) -> None:
        """Reads to the end; why that fails is kept, since nobody waits to hear it."""
        try:
            async with aclosing(steps):
                async for _ in steps:
                    pass
        except Exception as error:  # the boundary of what runs in the background
            fault = fault_of(error)
            if fault.code != "model_closed":
                failure = {"id": id, "error": str(fault), "created": time.time()}
                await self._service.store.put(contexts.FAILED, id, failure)

    async def _events(self, id: str, steps: AsyncGenerator[Step, None]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(steps):
                yield Event.of(ContextProgress(id=id, processed=0, total=None), name="progress").encode()
                async for step in steps:
                    yield Event.of(
                        ContextProgress(id=id, processed=step.processed, total=step.total), name="progress"
                    ).encode()
            yield Event.of(await contexts.find(self._service, id), name="done").encode()
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            yield Event.of(fault_of(error).reply, name="error").encode()

    def _new(self, folder: Path, material: _Material) -> Reading:
        """A new context's reading; takes as long as encoding does."""
        loaded, created, model = self._service.bridge.loaded, time.time(), self._service.name
        messages, limit = material.messages, loaded.engine.max_model_len
        if messages is not None:
            ids = partial(chat_ids, loaded.tokenizer, messages, limit=limit)
            return reading.create_chat(folder, _owner(loaded), ids, messages=messages, created=created, model=model)
        ids = partial(text_ids, loaded.tokenizer, material.texts, limit=limit)
        return reading.create_text(folder, _owner(loaded), ids, sources=[*material.texts], created=created, model=model)

    def _longer(self, folder: Path, material: _Material) -> Reading:
        """The reading of a context with more at its end."""
        loaded, more = self._service.bridge.loaded, material.messages
        tokenizer, owner, limit = loaded.tokenizer, _owner(loaded), loaded.engine.max_model_len
        if more is None:
            tail = partial(tail_ids, tokenizer, material.texts, limit=limit)
            return reading.extend_text(folder, owner, tail, sources=[*material.texts], limit=limit)
        return reading.extend_chat(
            folder, owner, lambda messages: chat_ids(tokenizer, messages, limit=limit), messages=more
        )


def _owner(loaded: Loaded) -> Owner:
    return Owner(fingerprint=loaded.fingerprint, dtype=loaded.dtype, vocab_size=loaded.tokenizer.vocab_size)


async def _unless_gone(begin: Coroutine[Any, Any, Response], request: Request, material: _Material) -> Response:
    """What `begin` answers; where it does not get so far as to read, the upload goes."""
    try:
        return await unless_gone(begin, request.receive)
    except BaseException:
        _unlink(material)
        raise


async def _spending(steps: AsyncGenerator[Step, None], material: _Material) -> AsyncGenerator[Step, None]:
    """The same steps; after the last one the upload goes."""
    try:
        async with aclosing(steps):
            async for step in steps:
                yield step
    finally:
        _unlink(material)


def _unlink(material: _Material) -> None:
    if material.spent is not None:
        material.spent.unlink(missing_ok=True)


def _new_id() -> str:
    return f"ctx_{uuid.uuid4().hex[:24]}"
