"""Uploads: a multipart/form-data body whose one file goes to disk as it comes, however large.

In: a request and the folder for the file. Out: an `Upload`, its file whole and on disk under a new name, or an error
and nothing left behind. Only small text fields and the piece just received are ever in memory.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import Request

from minimax_m1.engine.durable import NEW, sync
from minimax_m1.errors import RequestError
from minimax_m1.serve.connection import pieces_of
from minimax_m1.wire.errors import Fault

_FIELDS, _FIELD_BYTES = 32, 2**20  # of the text fields: how many, and how long all of them with their names
_PIECE = 2**20  # bytes that are gathered before a thread writes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The text fields and the file: where it lies now, its name at the client's, its size."""

    fields: dict[str, str]
    path: Path
    filename: str
    nbytes: int


async def read_upload(request: Request, folder: Path, *, limit: int, field: str = "file") -> Upload:
    """Reads the body; its file lies in `folder` afterwards, under a name that nothing else has.

    Args:
        request: its body has one file, in the form's field `field`, and any text fields, in any order.
        folder: where the file goes; made where there is none.
        limit: most bytes of the file.
        field: the file's name in the form.

    Raises:
        RequestError: the body is not a form with one such file, or is cut.
        Fault: the file is longer than `limit` (413). As with any body, as much again is read and dropped first.
        ClientGone: the client left while sending.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / uuid.uuid4().hex
    new = path.with_name(path.name + NEW)
    try:
        with new.open("xb") as file:
            form = await _copy(request, field, file, limit)
            await asyncio.to_thread(_settle, file)
        os.replace(new, path)
        await asyncio.to_thread(sync, folder)
    except BaseException:
        for each in (new, path):
            each.unlink(missing_ok=True)
        raise
    return Upload(fields=form.fields, path=path, filename=form.filename or "", nbytes=form.nbytes)


async def _copy(request: Request, field: str, file: BinaryIO, limit: int) -> _Form:
    """Writes the form's file. After an error the body is read on for a while, as `read_body` does."""
    form: _Form | None = None
    refusal: Exception | None = None
    received = 0
    async with aclosing(_pieces(request)) as pieces:
        async for piece in pieces:
            received += len(piece)
            if refusal is not None:
                if received > 2 * limit:
                    break
                continue
            try:
                form = form or _Form(request.headers.get("content-type", ""), field)
                data = form.feed(piece)
            except RequestError as error:
                refusal = error
                continue
            if form.nbytes > limit or received > limit + 2 * _FIELD_BYTES:
                refusal = Fault(413, f"the file is longer than the limit of {limit} bytes", code="body_too_large")
            else:
                await asyncio.to_thread(file.write, data)
    if refusal is not None:
        raise refusal
    assert form is not None, "there is always a last piece"
    form.finish()
    return form


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body in pieces of about a mebibyte, so that few of them need a thread."""
    gathered = bytearray()
    async with aclosing(pieces_of(request)) as pieces:
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Form:
    """What has been seen of the form so far; `filename` is None until the file has begun."""

    def __init__(self, content_type: str, field: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            shown = content_type[:100]
            raise RequestError(f"the body must be multipart/form-data with a boundary, its content type is {shown!r}")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.nbytes = 0
        self._file_field = field
        self._file = bytearray()
        self._text = bytearray()
        self._texts = 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._name: str | None = None  # of the text field that is being read
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_comes,
                    "on_header_value": self._value_comes,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data_comes,
                    "on_part_end": self._part_ends,
                },
            )
        except FormParserError as error:
            raise RequestError(f"the body is no form: {error}") from None

    def feed(self, piece: bytes) -> bytes:
        """What the file gains by this piece of the body."""
        self._file.clear()
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise RequestError(f"the body is no form: {error}") from None
        return bytes(self._file)

    def finish(self) -> None:
        """Refuses a form that is cut or has no file."""
        if self._parser.state != MultipartState.END:
            raise RequestError("the form in the body is cut: its closing boundary is missing")
        if self.filename is None:
            name = self._file_field
            raise RequestError(f"{name} is required: the form has no such field with a filename", param=name)

    def _part_begins(self) -> None:
        self._disposition, self._name = b"", None

    def _header_comes(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _value_comes(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _decoded(options.get(b"name", b""))
        if not name:
            raise RequestError("a part of the form has no name")
        if b"filename" not in options:
            if name in self.fields:
                raise RequestError(f"{name!r} is in the form twice", param=name)
            if len(self.fields) == _FIELDS:
                raise RequestError(f"the form has more than {_FIELDS} fields")
            self._name = name
            self._count(len(name))
        elif self.filename is not None or name != self._file_field:
            raise RequestError(f"the form must have one file, {self._file_field!r}, and has {name!r} too", param=name)
        else:
            self.filename = _decoded(options[b"filename"])

    def _data_comes(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self.nbytes += end - start
            self._file += data[start:end]
        else:
            self._count(end - start)
            self._text += data[start:end]

    def _part_ends(self) -> None:
        if self._name is not None:
            self.fields[self._name] = _decoded(bytes(self._text))
            self._text.clear()

    def _count(self, size: int) -> None:
        self._texts += size
        if self._texts > _FIELD_BYTES:
            raise RequestError(f"the form's text fields are longer than the limit of {_FIELD_BYTES} bytes")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RequestError(f"the form has text that is not UTF-8: {data[:40]!r}") from None
