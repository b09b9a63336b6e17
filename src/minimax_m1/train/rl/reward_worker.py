"""The process in which a user's reward runs, so that it may hang, crash or print without harm to the training.

`main` is called there with a socket's descriptor, a file and a function's name (`process.py`). In, over the socket:
lines of JSON, each a batch. Out: first whether the file can be used, then for each batch its values or errors and a
line {"done": true}; on SIGUSR1 {"line": n}, where the user's code is at that moment. What it prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from minimax_m1.train.rl.worker import (
    Broken,
    Line,
    Send,
    first_line,
    line_of,
    loaded,
    number_of,
    tell_where,
    told,
    watch,
)

_DEFAULTS = ("reward", "compute_score")  # looked for where no function is named
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")
_ALWAYS = ("prompts", "completions")


class Grader:
    """The user's function and how it wants to be called."""

    def __init__(self, path: str, name: str) -> None:
        module = loaded(path)
        wanted = (name,) if name else _DEFAULTS
        self.name = next((name for name in wanted if hasattr(module, name)), "")
        if not self.name:
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
            there = f"; it has {', '.join(own)}" if own else ""
            raise Broken(f"there is no function {' or '.join(wanted)}{there}")
        self.path, self.function = path, getattr(module, self.name)
        self.line = first_line(self.function, path)
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
            args = ", ".join(map(str, parameters))
            raise Broken(
                f"{self.name}({args}) must take prompts, completions and columns by name, or verl's {', '.join(_VERL)}",
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
                    self._tell(index, partial(number_of, value), send)
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
                self._tell(index, partial(number_of, value), send)
            except BaseException as error:
                send(self._error(index, error))

        await asyncio.gather(*map(one, range(len(batch["completions"]))))

    def _value(self, batch: Mapping[str, list[Any]], index: int) -> float | None:
        return number_of(self.function(**self._row(batch, index)))

    def _row(self, batch: Mapping[str, list[Any]], index: int) -> dict[str, Any]:
        row = {name: batch[name][index] for name in _VERL if name in batch and name in self.takes}
        return row | {"solution_str": _text(batch["completions"][index])}

    def _tell(self, index: int, value: Callable[[], float | None], send: Send) -> None:
        try:
            send({"index": index, "value": value()})
        except BaseException as error:
            send(self._error(index, error))

    def _error(self, index: int | None, error: BaseException) -> dict[str, Any]:
        line = line_of(error, self.path) or self.line
        return {"index": index, "error": type(error).__name__, "message": told(error), "line": line}


async def _awaited(result: Any) -> Any:
    return await result


def _listed(result: Any) -> list[Any]:
    if hasattr(result, "tolist"):  # arrays and tensors
        result = result.tolist()
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__iter__"):
        raise TypeError(f"a list of rewards was expected, got {type(result).__name__}")
    return list(result)


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    said = [message.get("content") for message in completion if message.get("role") == "assistant"]
    return str((said and said[-1]) or "")


def main(descriptor: int, path: str, name: str) -> None:
    """Loads the file, says so, and grades batches until the socket ends."""
    threading.Thread(target=watch, args=(os.getppid(), threading.Event()), daemon=True).start()
    line = Line(socket.socket(fileno=descriptor))
    tell_where(path, line.send)
    try:
        grader = Grader(path, name)
    except Broken as error:
        line.send({"broken": str(error), "line": error.line})
        return
    line.send(grader.hello())
    with asyncio.Runner() as runner:  # one loop for all batches, so that the user's connections live on
        for batch in line:
            grader.grade(batch, runner, line.send)
            line.send({"done": True})
