"""Server-sent events, both ways: `Event` -> bytes, and bytes -> `Event`s however they were cut.

In and out follow the HTML standard's section on event streams; `id` and `retry`, which nobody
here sends, are read past.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; a reader that gets no name gets "message", the standard's default."""

    name: str = "message"
    data: str

    @classmethod
    def of(cls, model: BaseModel, *, name: str = "message") -> Self:
        """The event that tells a model as JSON."""
        return cls(name=name, data=model.model_dump_json())

    def encode(self) -> bytes:
        """The event as it is sent."""
        named = "" if self.name == "message" else f"event: {self.name}\n"
        return (named + "".join(f"data: {line}\n" for line in _LINE_END.split(self.data)) + "\n").encode()


def comment(text: str) -> bytes:
    """A line that readers skip; it keeps the connection alive."""
    assert not _LINE_END.search(text)
    return f": {text}\n\n".encode()


class EventReader:
    """Reads a stream that comes in pieces cut anywhere."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = ""
        self._name = ""
        self._data: list[str] = []
        self._fresh = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        text = self._utf8.decode(data)
        if self._fresh and text:
            text, self._fresh = text.removeprefix("\ufeff"), False
        text = self._tail + text
        # A CR at the end may be half of a CRLF, so it waits for what follows.
        held = "\r" if text.endswith("\r") else ""
        *lines, rest = _LINE_END.split(text.removesuffix(held))
        self._tail = rest + held
        return [event for line in lines if (event := self._line(line))]

    def _line(self, line: str) -> Event | None:
        if not line:
            name, data, self._name, self._data = self._name, self._data, "", []
            return Event(name=name or "message", data="\n".join(data)) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
