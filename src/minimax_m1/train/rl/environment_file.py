"""Environments out of a user's own Python file, named like "my_env.py" or "my_env.py:Calculator".

In: that text. Out: `Environments` whose worlds live in processes of their own (`environment_worker.py`). A class in
TRL's style has tools, which are its public methods, `reset(**columns)` and `get_reward()`, both optional; a class with
`respond(messages)` answers the model itself. They get what JSON can hold. A world that never returns, crashes or
raises costs its own conversation and no more; a tool that raises only tells the model so.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from minimax_m1.errors import DataError, RequestError
from minimax_m1.text.messages import Message, checked_messages, checked_tools, map_text
from minimax_m1.train.rl import environment_worker
from minimax_m1.train.rl.environment import Environment, EnvironmentFault, Environments
from minimax_m1.train.rl.process import Channel, Ended, Process, Unusable
from minimax_m1.train.rl.reward import one_line

_SPEC = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>\w+))?", re.DOTALL)
_MOST = 1e9  # what a reward may be, as everywhere


def environments_of(text: str, *, timeout: float = 60.0) -> Environments:
    """The environments that `text` names; their process has started. `timeout` is seconds a call of the user's code.

    Worlds of different conversations may be used from several threads at once.

    Raises:
        DataError: the text, the file, the class or its tools cannot be used; names the file and the line.
    """
    assert timeout > 0
    parts = _SPEC.fullmatch(text)
    if parts is None:
        raise DataError(f"an environment is FILE.py or FILE.py:Class, got {text!r}")
    path = Path(parts["path"])
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    file = _UserClass(path.resolve(), parts["name"] or "", timeout)
    try:
        hello = file.start()
        tools = tuple(checked_tools(hello["tools"]) or ())
    except Unusable as error:
        raise DataError(f"{file.place(error.line)}: {error}") from None
    except Ended as error:
        raise DataError(f"{path}: {error} while it was loading") from None
    except RequestError as error:
        file.close()
        raise DataError(f"{file.place(hello['line'])}: {error}") from None
    return Environments(
        name=f"{path.stem}.{hello['class']}",
        tools=tools,
        start=file.open,
        needs=frozenset(hello["needs"]),
        place=file.place(hello["line"]),
        close=file.close,
    )


class _UserClass:
    """A class of a user's file, and the process that has loaded it."""

    def __init__(self, path: Path, name: str, timeout: float) -> None:
        self._path, self._name, self.timeout = path, name, timeout
        self.lost = 0.0  # seconds waited for calls that did not return, since the last one that did
        self._process: Process | None = None
        self._lock = threading.Lock()  # conversations may be opened from several threads
        self.hello: dict[str, Any] = {}

    def place(self, line: int | None) -> str:
        """ "FILE:LINE", or the file alone."""
        return f"{self._path.name}:{line}" if line else self._path.name

    def start(self) -> dict[str, Any]:
        """Starts the process; what it says of the class. Raises Unusable or Ended."""
        process = Process(environment_worker.__name__, self._path, self._name)
        self.hello = process.hello()
        self._process = process
        return self.hello

    def close(self) -> None:
        """Ends the process and with it all conversations."""
        if self._process is not None:
            self._process.end(1)
            self._process = None

    def open(self, columns: Mapping[str, Any]) -> Environment:
        """The world of a new conversation. Raises EnvironmentFault."""
        takes, place = self.hello["takes"], self.place(self.hello["line"])
        for name in self.hello["needs"]:
            if name not in columns:
                raise EnvironmentFault(f"{place}: reset needs the column {name!r}; the row has {_names(columns)}")
        ours = self._connected(place)
        world = _World(self, Channel(ours))
        world.begin({name: value for name, value in columns.items() if takes is None or name in takes})
        return world

    def _connected(self, place: str) -> socket.socket:
        """A socket whose other end is with a new child; the process is started anew where it has died."""
        with self._lock:
            assert self._process is not None, "closed"
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise DataError(f"no further conversation can be opened: {error.strerror}; see `ulimit -n`") from None
            with theirs:
                try:
                    socket.send_fds(self._process.socket, [b"+"], [theirs.fileno()])
                except OSError:
                    self._process.end(0)
                    try:
                        self.start()
                        socket.send_fds(self._process.socket, [b"+"], [theirs.fileno()])
                    except (Unusable, Ended, OSError) as error:
                        ours.close()
                        raise EnvironmentFault(f"{place}: its process died and did not start again: {error}") from None
        return ours


class _World:
    """One conversation's end of the socket to the child in which its world lives."""

    def __init__(self, file: _UserClass, channel: Channel) -> None:
        self._file, self._channel = file, channel
        self._close = weakref.finalize(self, channel.socket.close)  # which ends the child
        self._pid: int | None = None
        self._fault: str | None = None
        self._reward: float | None = None
        self._done = False

    def begin(self, columns: Mapping[str, Any]) -> None:
        """Makes the object and resets it. Raises EnvironmentFault."""
        self._pid = self._asked(None)["pid"]
        self._asked({"start": columns})

    def respond(self, messages: Sequence[Message]) -> Sequence[Message]:
        """As in `Environment`."""
        assert not self._done, "the conversation has had its reward"
        if self._file.hello["responds"]:
            return self._checked(self._asked({"messages": messages})["value"])
        calls = checked_messages(messages[-1:])[0].get("tool_calls", ())
        if not calls:
            return ()
        told = self._asked({"calls": [{"name": one["name"], "arguments": one["arguments"]} for one in calls]})
        results = []
        for one, text in zip(calls, told["value"], strict=True):
            whose = {} if one["id"] is None else {"tool_call_id": one["id"]}
            results.append({"role": "tool", "name": one["name"], "content": text, **whose})
        return self._checked(results)

    def reward(self) -> float | None:
        """As in `Environment`."""
        if not self._done:
            value = self._asked({"reward": True})["value"]
            if value is not None and not abs(value) <= _MOST:
                self._fail(f"{self._place()}: a reward must be within ±{_MOST:g}, got {value:g}")
            self._reward, self._done = value, True
            self._close()
        return self._reward

    def _asked(self, message: Mapping[str, Any] | None) -> dict[str, Any]:
        """The child's answer to a message, or what it says by itself. Raises EnvironmentFault."""
        if self._fault is not None:
            raise EnvironmentFault(self._fault)
        # Where one conversation after the other hangs, the later ones are not waited for as long.
        name, seconds = self._file.hello["class"], max(1.0, self._file.timeout - self._file.lost)
        deadline = time.monotonic() + seconds
        try:
            if message is not None:
                self._channel.write(message, deadline)
            answer = self._channel.read(deadline)
        except TimeoutError:
            self._file.lost += seconds
            line = None if self._pid is None else self._channel.where(self._pid)
            self._fail(f"{self._place(line)}: {name} did not return within {seconds:g} s")
        except Ended as error:
            self._fail(f"{self._place()}: {name} is gone: {error}")
        except (TypeError, ValueError, RecursionError) as error:  # what JSON cannot hold
            self._fail(f"{self._place()}: {name} cannot be given this row: {one_line(str(error))}")
        if message is not None:
            self._file.lost = 0.0
        if "error" in answer:
            place = self._place(answer["line"])
            self._fail(f"{place}: {name} raised {answer['error']}: {one_line(answer['message'])}")
        return answer

    def _checked(self, added: Any) -> Sequence[Message]:
        """Messages as a chat template can write them. Raises EnvironmentFault."""
        if not added:
            return ()
        try:
            messages = checked_messages(map_text(added, _sayable))
        except RequestError as error:
            self._fail(f"{self._place()}: what respond returned cannot be used: {error}")
        for message in messages:
            if message["role"] not in ("tool", "user"):
                self._fail(f"{self._place()}: respond may say tool and user messages, got role {message['role']!r}")
        return messages

    def _place(self, line: int | None = None) -> str:
        return self._file.place(line or self._file.hello["line"])

    def _fail(self, message: str) -> NoReturn:
        """Ends the world, its child and all that it started."""
        if self._pid is not None:
            with suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)
        self._close()
        self._fault = message
        raise EnvironmentFault(message)


def _names(columns: Mapping[str, Any]) -> str:
    return one_line(", ".join(sorted(columns)) or "none", 200)


def _sayable(text: str) -> str:
    """The text without what UTF-8 has no place for."""
    return text.encode("utf-8", "replace").decode("utf-8")
