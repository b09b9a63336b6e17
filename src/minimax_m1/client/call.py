"""What to send and how to read what comes back; nothing here sends.

`Outgoing` is one HTTP request, `Call` one whose answer comes whole, `LiveCall` one whose answer is a stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import pydantic_core
from pydantic import BaseModel

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import read
from minimax_m1.wire.sse import Event, EventReader

E = TypeVar("E")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One HTTP request: JSON in `body`, or a `file` that is read from the disk as it is sent, with `form` beside it."""

    method: str
    path: str
    body: bytes | None = None
    file: Path | None = None
    form: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO | None]:
        """The file, open, where there is one.

        Raises:
            RequestError: it cannot be opened.
        """
        if self.file is None:
            yield None
            return
        try:
            handle = self.file.open("rb")
        except OSError as error:
            raise RequestError(f"{self.file} cannot be read: {error.strerror}", param="path") from None
        with handle:
            yield handle


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[R]):
    """A request, and what makes a result of the answer's bytes."""

    out: Outgoing
    read: Callable[[bytes], R]


class Decoder(ABC, Generic[E, R]):
    """Makes events of a stream's bytes, however these were cut, and at the end the whole reply.

    `reply` is None until the stream has told all; one that ends before was cut.
    """

    def __init__(self) -> None:
        self._reader = EventReader()
        self.reply: R | None = None

    def feed(self, data: bytes) -> Iterator[E]:
        """The events that these bytes complete, each told before what comes after it is looked at.

        Raises:
            APIError: the stream tells one.
            UnreadableReply: it tells what is no part of this API.
        """
        for told in self._reader.feed(data):
            if (event := self._event(told)) is not None:
                yield event

    @abstractmethod
    def text(self, event: E) -> str:
        """The text of the answer that the event brings."""

    @abstractmethod
    def _event(self, told: Event) -> E | None:
        """What it tells; None for what a client need not know, or does not know yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCall(Generic[E, R]):
    """A request whose answer comes as events, and what makes them of its bytes."""

    out: Outgoing
    decoder: Callable[[], Decoder[E, R]]


def body(model: type[BaseModel], fields: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> bytes:
    """The fields that are not None as JSON, which the server's own model of the request has read.

    `own` are the fields that the client's method sets itself, and that its caller may therefore not.

    Raises:
        RequestError: a field is unknown or wrong; nothing has been sent then.
    """
    own = own or {}
    for name in fields:
        if name not in model.model_fields or name in own:
            raise RequestError(f"unknown field {name!r}", param=name)
    told = {name: value for name, value in {**fields, **own}.items() if value is not None}
    try:
        data = pydantic_core.to_json(told)
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise RequestError(f"the request cannot be written as JSON: {error}") from None
    read(model, data)
    return data
