"""What every process that runs a user's file needs at its end: to load it, say where it is, and die with the training.

In: a path, and the descriptor of a socket. Out: the module, or `Broken`; lines of JSON over the socket, and {"line": n}
on SIGUSR1, where the user's code is at that moment. Nothing here needs more than Python's own library.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

Send = Callable[[Mapping[str, Any]], None]


class Broken(Exception):
    """The file cannot be used; `line` is where."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Line:
    """The other end of a `Channel`: messages as they come, until the training closes it."""

    def __init__(self, channel: socket.socket) -> None:
        channel.set_inheritable(False)
        self._file = channel.makefile("rw", encoding="utf-8")

    def __iter__(self) -> Iterator[Any]:
        return (json.loads(line) for line in self._file)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message."""
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()


def loaded(path: str) -> ModuleType:
    """The file as a module. Raises Broken where it cannot be loaded."""
    sys.path.insert(0, str(Path(path).parent))  # so that it can import its neighbours
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None, "the file's name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise Broken(f"{type(error).__name__}: {told(error)}", line_of(error, path)) from None
    return module


def line_of(error: BaseException, path: str) -> int | None:
    """The innermost line of the user's file that the error went through."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    frames = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    return frames[-1] if frames else None


def first_line(function: Any, path: str) -> int | None:
    """Where in the user's file a function begins; None where it is not from there."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_firstlineno if isinstance(code, CodeType) and code.co_filename == path else None


def told(error: BaseException) -> str:
    """The error's message, whatever it takes."""
    try:
        return error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # an error of the user's own that cannot even be written
        return "its message cannot be read"


def number_of(value: Any) -> float | None:
    """A reward as JSON can hold it; verl's dictionaries have it under "score"."""
    if isinstance(value, Mapping):
        if "score" not in value:
            raise TypeError(f"a dictionary needs the key 'score', got {', '.join(map(str, value)) or 'none'}")
        value = value["score"]
    if value is None:
        return None
    if not hasattr(value, "__float__"):
        raise TypeError(f"a reward is a number or None, got {type(value).__name__} {repr(value)[:80]}")
    return float(value)


def watch(parent: int, until: threading.Event) -> None:
    """Ends this process and its children once the training is gone, even when the user's code never returns."""
    while not until.wait(1):
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)


def tell_where(path: str, send: Send) -> None:
    """Makes SIGUSR1 a question: at which line of the user's file is this process now?"""

    def answer(_: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_filename != path:
            frame = frame.f_back
        send({"line": None if frame is None else frame.f_lineno})

    signal.signal(signal.SIGUSR1, answer)
