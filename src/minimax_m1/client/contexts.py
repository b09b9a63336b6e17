"""Contexts: what the server reads once, keeps on its disk and is asked about later.

In: texts, files (sent from the disk as they are read, however large), conversations; then questions by a context's id.
Out: `ContextReply`s, and answers as `generate` and `stream` give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from pydantic import BaseModel

from minimax_m1.client.call import Call, Decoder, LiveCall, Outgoing, body
from minimax_m1.client.calls import get, live, place, post
from minimax_m1.client.connection import AsyncConnection, Connection
from minimax_m1.client.errors import told_in_stream
from minimax_m1.client.events import Event, GenerateDecoder
from minimax_m1.client.fields import AskFields, CreateFields, ReadFields
from minimax_m1.client.replies import parsed
from minimax_m1.client.stream import AsyncStream, Stream
from minimax_m1.errors import RequestError
from minimax_m1.wire.contexts import (
    AskContext,
    BranchContext,
    ContextDeleted,
    ContextList,
    ContextProgress,
    ContextReply,
    CreateContext,
    CreateForm,
    ExtendContext,
    ReadForm,
)
from minimax_m1.wire.native import GenerateReply
from minimax_m1.wire.sse import Event as Told

Heard = Callable[[int, int | None], object]
"""Called with the tokens read, and how many there are; None while they are counted."""

_ALL = "/v1/contexts"


class Contexts:
    """The contexts of a server; `client.contexts`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        name: str | None = None,
        *,
        path: str | Path | None = None,
        background: bool = False,
        on_progress: Heard | None = None,
        **fields: Unpack[CreateFields],
    ) -> ContextReply:
        """Reads one of `text=`, `texts=` (by name), `messages=`, `file_id=` and the file at `path` into a context.

        Comes back when all is read, unless in the `background`; `on_progress(processed, total)` hears of it meanwhile.
        The same call once more, with the same `name`, goes on where the first was cut short.
        """
        return self._read(_ALL, CreateContext, CreateForm, {**fields, "name": name}, path, background, on_progress)

    def extend(
        self,
        id: str,
        *,
        path: str | Path | None = None,
        background: bool = False,
        on_progress: Heard | None = None,
        **fields: Unpack[ReadFields],
    ) -> ContextReply:
        """Reads more at the end of a context; otherwise as `create`."""
        return self._read(place(_ALL, id, "/extend"), ExtendContext, ReadForm, fields, path, background, on_progress)

    def list(self) -> list[ContextReply]:
        """All of them, by id."""
        return self._connection.call(get(_ALL, ContextList)).data

    def get(self, id: str) -> ContextReply:
        """One of them; NotFound where there is none."""
        return self._connection.call(get(place(_ALL, id), ContextReply))

    def ask(self, id: str, question: str, **fields: Unpack[AskFields]) -> GenerateReply:
        """Answers a question about a context, which is not read again and stays as it is."""
        return self._connection.call(_ask(id, question, fields))

    def ask_stream(self, id: str, question: str, **fields: Unpack[AskFields]) -> Stream[Event, GenerateReply]:
        """`ask` as it comes; see `Client.stream`."""
        return self._connection.stream(_ask_live(id, question, fields))

    def branch(self, id: str, name: str | None = None) -> ContextReply:
        """A copy under another name, to be extended another way."""
        return self._connection.call(_branch(id, name))

    def delete(self, id: str) -> ContextDeleted:
        """Forgets a context; Conflict while it is in use."""
        return self._connection.call(get(place(_ALL, id), ContextDeleted, method="DELETE"))

    def _read(
        self,
        place: str,
        model: type[BaseModel],
        form: type[ReadForm],
        fields: Mapping[str, Any],
        path: str | Path | None,
        background: bool,
        on_progress: Heard | None,
    ) -> ContextReply:
        out = _reading(place, model, form, fields, path, background)
        if background:
            return self._connection.call(_whole(out))
        with self._connection.stream(_live(out)) as stream:
            for progress in stream:
                if on_progress is not None:
                    on_progress(progress.processed, progress.total)
            return stream.reply()


class AsyncContexts:
    """`Contexts` for coroutines. A file is read in the event loop, a small piece at a time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        name: str | None = None,
        *,
        path: str | Path | None = None,
        background: bool = False,
        on_progress: Heard | None = None,
        **fields: Unpack[CreateFields],
    ) -> ContextReply:
        """As `Contexts.create`."""
        out = _reading(_ALL, CreateContext, CreateForm, {**fields, "name": name}, path, background)
        return await self._read(out, background, on_progress)

    async def extend(
        self,
        id: str,
        *,
        path: str | Path | None = None,
        background: bool = False,
        on_progress: Heard | None = None,
        **fields: Unpack[ReadFields],
    ) -> ContextReply:
        """As `Contexts.extend`."""
        out = _reading(place(_ALL, id, "/extend"), ExtendContext, ReadForm, fields, path, background)
        return await self._read(out, background, on_progress)

    async def list(self) -> list[ContextReply]:
        """As `Contexts.list`."""
        return (await self._connection.call(get(_ALL, ContextList))).data

    async def get(self, id: str) -> ContextReply:
        """As `Contexts.get`."""
        return await self._connection.call(get(place(_ALL, id), ContextReply))

    async def ask(self, id: str, question: str, **fields: Unpack[AskFields]) -> GenerateReply:
        """As `Contexts.ask`."""
        return await self._connection.call(_ask(id, question, fields))

    def ask_stream(self, id: str, question: str, **fields: Unpack[AskFields]) -> AsyncStream[Event, GenerateReply]:
        """As `Contexts.ask_stream`."""
        return self._connection.stream(_ask_live(id, question, fields))

    async def branch(self, id: str, name: str | None = None) -> ContextReply:
        """As `Contexts.branch`."""
        return await self._connection.call(_branch(id, name))

    async def delete(self, id: str) -> ContextDeleted:
        """As `Contexts.delete`."""
        return await self._connection.call(get(place(_ALL, id), ContextDeleted, method="DELETE"))

    async def _read(self, out: Outgoing, background: bool, on_progress: Heard | None) -> ContextReply:
        if background:
            return await self._connection.call(_whole(out))
        async with self._connection.stream(_live(out)) as stream:
            async for progress in stream:
                if on_progress is not None:
                    on_progress(progress.processed, progress.total)
            return await stream.reply()


class _ReadingDecoder(Decoder[ContextProgress, ContextReply]):
    """Reads what is told of a reading."""

    def text(self, event: ContextProgress) -> str:
        """There is none."""
        return ""

    def _event(self, told: Told) -> ContextProgress | None:
        match told.name:
            case "progress":
                return parsed(ContextProgress, told.data)
            case "done":
                self.reply = parsed(ContextReply, told.data)
            case "error":
                raise told_in_stream(told.data)
        return None


def _reading(
    place: str,
    model: type[BaseModel],
    form: type[ReadForm],
    fields: Mapping[str, Any],
    path: str | Path | None,
    background: bool,
) -> Outgoing:
    """What has the server read: told as events, so that a long reading shows signs of life, or in the background."""
    how = {"stream": not background, "background": background}
    if path is None:
        return Outgoing(method="POST", path=place, body=body(model, fields, how))
    told = {name: value for name, value in {**fields, **how}.items() if value is not None}
    for name in told:
        if name not in form.model_fields:
            raise RequestError(f"{name} cannot be given beside path", param=name)
    strings = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in told.items()}
    form.of(strings)
    return Outgoing(method="POST", path=place, file=Path(path), form=strings)


def _whole(out: Outgoing) -> Call[ContextReply]:
    return Call(out=out, read=lambda data: parsed(ContextReply, data))


def _live(out: Outgoing) -> LiveCall[ContextProgress, ContextReply]:
    return LiveCall(out=out, decoder=_ReadingDecoder)


def _ask(id: str, question: str, fields: Mapping[str, Any]) -> Call[GenerateReply]:
    data = body(AskContext, fields, {"question": question, "stream": False})
    return post(place(_ALL, id, "/ask"), data, GenerateReply)


def _ask_live(id: str, question: str, fields: Mapping[str, Any]) -> LiveCall[Event, GenerateReply]:
    data = body(AskContext, fields, {"question": question, "stream": True})
    return live(place(_ALL, id, "/ask"), data, GenerateDecoder)


def _branch(id: str, name: str | None) -> Call[ContextReply]:
    return post(place(_ALL, id, "/branch"), body(BranchContext, {"name": name}), ContextReply)
