"""The process in which a user's reward runs, so that it may hang, crash or print without harm to the training.

Started as a program with a socket's descriptor, a file and a function's name; it needs nothing but Python's own
library. In, over the socket: lines of JSON, each a batch. Out: first whether the file can be used, then for each
batch its values or errors and a line {"done": true}; on SIGUSR1 {"line": n}, where the user's code is at that moment.
What the user prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_DEFAULTS = ("reward", "compute_score")  # looked for where no function is named
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")
_ALWAYS = ("prompts", "completions")

Send = Callable[[Mapping[str, Any]], None]


class Broken(Exception):
    """The file cannot be used; `line` is where."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Grader:
    """The user's function and how it wants to be called."""

    def __init__(self, path: str, name: str) -> None:
        module = _loaded(path)
        wanted = (name,) if name else _DEFAULTS
        self.name = next((name for name in wanted if hasattr(module, name)), "")
        if not self.name:
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
            there = f"; it has {', '.join(own)}" if own else ""
            raise Broken(f"there is no function {' or '.join(wanted)}{there}")
        self.path, self.function = path, getattr(module, self.name)
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        self.line = code.co_firstlineno if isinstance(code, CodeType) and code.co_filename == path else None
        if not callable(self.function):
            raise Broken(f"{self.name} is no function", self.line)
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            raise Broken(f"the arguments of {self.name} cannot be told", self.line) from None
        named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self.takes = {one.name for one in named}
        self.any = any(one.kind == one.VAR_KEYWORD for one in parameters)
        self.needs = {one.name for one in named if one.default is one.empty} - set(_ALWAYS)
        self.verl = "solution_str" in self.takes
        fits = self.verl or "completions" in self.takes or self.any
        if any(one.kind == one.POSITIONAL_ONLY for one in parameters) or not fits:
            told = ", ".join(map(str, parameters))
            raise Broken(
                f"{self.name}({told}) must take prompts, completions and columns by name, or verl's {', '.join(_VERL)}",
                self.line,
            )
        if self.verl:
            self.any = False  # what else verl would pass is of no use here
            self.needs -= {"solution_str"}
            if strange := sorted(self.needs - set(_VERL)):
                raise Broken(f"{self.name} wants {strange[0]!r}, which is none of {', '.join(_VERL)}", self.line)
        call = getattr(self.function, "__call__", None)  # noqa: B004 - of an object, the method that may be async
        self.is_async = inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def hello(self) -> dict[str, Any]:
        """What the other side must know: which columns to send and which must be there."""
        takes = None if self.any else sorted(self.takes | {"completions"})
        return {"function": self.name, "takes": takes, "needs": sorted(self.needs), "line": self.line}

    def grade(self, batch: Mapping[str, list[Any]], runner: asyncio.Runner, send: Send) -> None:
        """Sends the values or the errors of a batch."""
        if not self.verl:
            try:
                result = self.function(**{name: batch[name] for name in batch if self.any or name in self.takes})
                if inspect.isawaitable(result):
                    result = runner.run(_awaited(result))
                for index, value in enumerate(_listed(result)):
                    self._tell(index, partial(_number, value), send)
            except BaseException as error:  # sys.exit() too
                send(self._error(None, error))
        elif self.is_async:
            runner.run(self._grade_together(batch, send))
        else:
            for index in range(len(batch["completions"])):
                self._tell(index, partial(self._value, batch, index), send)

    async def _grade_together(self, batch: Mapping[str, list[Any]], send: Send) -> None:
        async def one(index: int) -> None:
            try:
                value = await self.function(**self._row(batch, index))
                self._tell(index, partial(_number, value), send)
            except BaseException as error:
                send(self._error(index, error))

        await asyncio.gather(*map(one, range(len(batch["completions"]))))

    def _value(self, batch: Mapping[str, list[Any]], index: int) -> float | None:
        return _number(self.function(**self._row(batch, index)))

    def _row(self, batch: Mapping[str, list[Any]], index: int) -> dict[str, Any]:
        row = {name: batch[name][index] for name in _VERL if name in batch and name in self.takes}
        return row | {"solution_str": _text(batch["completions"][index])}

    def _tell(self, index: int, value: Callable[[], float | None], send: Send) -> None:
        try:
            send({"index": index, "value": value()})
        except BaseException as error:
            send(self._error(index, error))

    def _error(self, index: int | None, error: BaseException) -> dict[str, Any]:
        line = _line(error, self.path) or self.line
        return {"index": index, "error": type(error).__name__, "message": _told(error), "line": line}


def _loaded(path: str) -> ModuleType:
    sys.path.insert(0, str(Path(path).parent))  # so that it can import its neighbours
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None, "the file's name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise Broken(f"{type(error).__name__}: {_told(error)}", _line(error, path)) from None
    return module


def _line(error: BaseException, path: str) -> int | None:
    """The innermost line of the user's file that the error went through."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    frames = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    return frames[-1] if frames else None


def _told(error: BaseException) -> str:
    try:
        return error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # an error of the user's own that cannot even be written
        return "its message cannot be read"


async def _awaited(result: Any) -> Any:
    return await result


def _listed(result: Any) -> list[Any]:
    if hasattr(result, "tolist"):  # arrays and tensors
        result = result.tolist()
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__iter__"):
        raise TypeError(f"a list of rewards was expected, got {type(result).__name__}")
    return list(result)


def _number(value: Any) -> float | None:
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


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    said = [message.get("content") for message in completion if message.get("role") == "assistant"]
    return str((said and said[-1]) or "")


def _watch(parent: int) -> None:
    """Ends this process and its children once the training is gone, even when the user's code never returns."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _tell_where(path: str, send: Send) -> None:
    """Makes SIGUSR1 a question: at which line of the user's file is this process now?"""

    def answer(_: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_filename != path:
            frame = frame.f_back
        send({"line": None if frame is None else frame.f_lineno})

    signal.signal(signal.SIGUSR1, answer)


def main(descriptor: int, path: str, name: str) -> None:
    """Loads the file, says so, and grades batches until the socket ends."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor).makefile("rw", encoding="utf-8")

    def send(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    _tell_where(path, send)
    try:
        grader = Grader(path, name)
    except Broken as error:
        send({"broken": str(error), "line": error.line})
        return
    send(grader.hello())
    with asyncio.Runner() as runner:  # one loop for all batches, so that the user's connections live on
        for line in channel:
            grader.grade(json.loads(line), runner, send)
            send({"done": True})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
