"""The process in which a user's environments run: it loads the file once, then forks a child for each conversation.

`main` is called there with a socket's descriptor, a file and a class's name (`process.py`). In, over the socket: one
byte with the descriptor of a new child's socket. A child says {"pid": n}; then it gets {"start": columns}, any number
of {"calls": [...]} or {"messages": [...]}, and {"reward": true} as lines of JSON, and answers each with {"value": ...}
or an error. So one that hangs or crashes is ended without the others. What the user prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from minimax_m1.train.rl.toolbox import call, definitions, error_text, text_of
from minimax_m1.train.rl.worker import Broken, Line, first_line, line_of, loaded, number_of, tell_where, told, watch


class World:
    """The user's class: what it offers and needs."""

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.kind = _class_of(loaded(path), name)
        self.line = _line_of_class(self.kind)
        self.responds = hasattr(self.kind, "respond")
        self.definitions = list(getattr(self.kind, "tools", ())) if self.responds else definitions(self.kind, path)
        if not self.responds and not self.definitions:
            message = "has neither public methods, which are the model's tools, nor respond(messages)"
            raise Broken(f"{self.kind.__name__} {message}", self.line)
        reset = getattr(self.kind, "reset", None)
        taken = [] if reset is None else list(inspect.signature(reset).parameters.values())[1:]
        named = [one for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self.takes = {one.name for one in named}
        self.any = any(one.kind == one.VAR_KEYWORD for one in taken)
        self.needs = {one.name for one in named if one.default is one.empty}

    def hello(self) -> dict[str, Any]:
        """What the other side must know: the tools, and which columns to send and which must be there."""
        return {
            "class": self.kind.__name__,
            "tools": self.definitions,
            "responds": self.responds,
            "takes": None if self.any else sorted(self.takes),
            "needs": sorted(self.needs),
            "line": self.line,
        }


class Conversation:
    """One conversation with an object of the user's class."""

    def __init__(self, world: World, runner: asyncio.Runner) -> None:
        self._world, self._runner = world, runner
        self._tools = {} if world.responds else {tool["name"]: tool for tool in world.definitions}
        self._object: Any = None
        self._doing: Any = world.kind  # what the user's code was last called for

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What to say to one message. The model is told of a tool that raises; any other error is the user's."""
        try:
            return {"value": self._value(asked)}
        except BaseException as error:  # sys.exit() too
            return self.error(error)

    def error(self, error: BaseException) -> dict[str, Any]:
        """An error with the innermost line of the user's file, or that of the method."""
        world = self._world
        line = line_of(error, world.path) or first_line(self._doing, world.path) or world.line
        return {"error": type(error).__name__, "message": told(error), "line": line}

    def _value(self, asked: Mapping[str, Any]) -> Any:
        if "calls" in asked:
            return [self._result(**one) for one in asked["calls"]]
        if "messages" in asked:
            return _listed(self._do("respond", asked["messages"]))
        if "reward" in asked:
            return number_of(self._do("get_reward")) if hasattr(self._object, "get_reward") else None
        self._object = self._world.kind()
        if hasattr(self._object, "reset") and (text := self._do("reset", **asked["start"])) is not None:
            raise TypeError(f"reset must return None, got {text!r:.80}; what is asked belongs into the data's row")
        return None

    def _result(self, name: str, arguments: Any) -> str:
        try:
            return text_of(self._awaited(call(self._object, self._tools, name, arguments)))
        except BaseException as error:
            return error_text(error)

    def _do(self, name: str, *arguments: Any, **columns: Any) -> Any:
        self._doing = getattr(self._object, name)
        return self._awaited(self._doing(*arguments, **columns))

    def _awaited(self, result: Any) -> Any:
        async def wait() -> Any:
            return await result

        return self._runner.run(wait()) if inspect.isawaitable(result) else result


def _class_of(module: ModuleType, name: str) -> type:
    """The class of that name, or the only one of the file's own that has public methods."""
    own = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    if name:
        found = getattr(module, name, None)
        if inspect.isclass(found):
            return found
        there = f"; it has {', '.join(one.__name__ for one in own)}" if own else ""
        raise Broken(f"there is no class {name}{there}")
    fit = [one for one in own if any(inspect.isfunction(member) for key, member in vars(one).items() if key[0] != "_")]
    fit = [one for one in fit if one.__name__[0] != "_"]
    if len(fit) == 1:
        return fit[0]
    if not fit:
        raise Broken("there is no class with public methods, which would be an environment's tools")
    raise Broken(f"there are several classes; name one of {', '.join(one.__name__ for one in fit)} behind a colon")


def _line_of_class(kind: type) -> int | None:
    with suppress(OSError, TypeError):
        return inspect.getsourcelines(kind)[1]
    return None


def _listed(said: Any) -> list[Any]:
    """What `respond` returned as a list of messages: a text is what the user says next, None is the end."""
    if said is None:
        return []
    if isinstance(said, str):
        return [{"role": "user", "content": said}] if said else []
    return [said] if isinstance(said, Mapping) else list(said)


def _converse(world: World, channel: socket.socket) -> NoReturn:
    """A child's whole life: it answers until its socket is closed, then ends itself and all that it started."""
    os.setsid()  # a group of its own, to be killed whole
    line = Line(channel)
    tell_where(world.path, line.send)
    line.send({"pid": os.getpid()})
    if numpy := sys.modules.get("numpy.random"):  # Python's own `random` is seeded anew after a fork, numpy's is not
        numpy.seed()
    try:
        with suppress(ConnectionError), asyncio.Runner() as runner:
            conversation = Conversation(world, runner)
            for asked in line:
                try:
                    line.send(conversation.answer(asked))
                except (TypeError, ValueError, RecursionError) as error:  # messages that JSON cannot hold
                    line.send(conversation.error(error))
    except BaseException:  # a mistake of ours, and nobody else would tell
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)
    raise AssertionError("nobody outlives that")


def main(descriptor: int, path: str, name: str) -> None:
    """Loads the file, says so, and forks children until the socket ends."""
    ready = threading.Event()
    watcher = threading.Thread(target=watch, args=(os.getppid(), ready), daemon=True)
    watcher.start()
    control = socket.socket(fileno=descriptor)
    line = Line(control)
    tell_where(path, line.send)
    try:
        world = World(path, name)
    except Broken as error:
        line.send({"broken": str(error), "line": error.line})
        return
    line.send(world.hello())
    ready.set()  # from here on the socket's end is watched, and a fork likes no other threads
    watcher.join()
    children: set[int] = set()
    while descriptors := socket.recv_fds(control, 1, 1)[1]:
        children = {pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        with socket.socket(fileno=descriptors[0]) as channel:
            try:
                child = os.fork()
            except OSError as error:
                Line(channel).send({"error": type(error).__name__, "message": str(error), "line": None})
                continue
            if child == 0:
                control.close()
                _converse(world, channel)
            children.add(child)
    for pid in children:
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
