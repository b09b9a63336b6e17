"""The training's end of a process that runs a user's file: lines of JSON over a socket, deadlines, and a sure end.

In: the module of ours whose `main(descriptor, path, name)` runs there, the user's file, a name in it. Out: its
messages, or `Ended`, `Unusable`, TimeoutError. The user's code never sees the socket and may hang, crash or print.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import minimax_m1
from minimax_m1.train.rl.reward import one_line

_START = 60.0  # seconds to load the file
# The package is put last, where it hides nothing of the user's, and named, since -P leaves out what was relative.
_MAIN = "import sys; sys.path.append({root!r}); from {module} import main; main(int(sys.argv[1]), *sys.argv[2:])"


class Ended(Exception):
    """The process is gone."""


class Unusable(Exception):
    """The file cannot be used; `line` is where."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class Channel:
    """Lines of JSON to and from a process; deadlines are times of `time.monotonic`."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self._buffer = b""

    def write(self, message: Mapping[str, Any], deadline: float) -> None:
        """Sends a message. Raises Ended or TimeoutError; TypeError for what JSON cannot hold."""
        line = json.dumps(message, default=_plain).encode() + b"\n"
        try:
            self.socket.settimeout(max(1e-3, deadline - time.monotonic()))
            self.socket.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            raise Ended(self.why_ended()) from None

    def read(self, deadline: float) -> dict[str, Any]:
        """The next message. Raises Ended or TimeoutError."""
        pieces = [self._buffer]
        while b"\n" not in pieces[-1]:
            try:
                self.socket.settimeout(max(1e-3, deadline - time.monotonic()))
                piece = self.socket.recv(1 << 16)
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Ended(self.why_ended())
            pieces.append(piece)
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def where(self, pid: int) -> int | None:
        """The line at which the user's code is in process `pid`, where it can still tell within a second."""
        deadline = time.monotonic() + 1
        with suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
        try:
            while (message := self.read(deadline)).keys() != {"line"}:
                pass
        except (TimeoutError, Ended, ValueError):
            return None
        line: int | None = message["line"]
        return line

    def why_ended(self) -> str:
        """How the process ended, as far as can be told."""
        return "its process ended"


class Process(Channel):
    """A process of Python with the user's file in it, in a session of its own."""

    def __init__(self, module: str, path: Path, name: str) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        root = str(Path(minimax_m1.__file__).resolve().parents[1])
        main = _MAIN.format(root=root, module=module)
        with theirs:
            handle = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-B", "-P", "-c", main, str(handle), str(path), name],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what the user prints must not mix with what the command prints
                pass_fds=[handle],
                start_new_session=True,  # a group of its own, to be killed whole; and no Ctrl-C of ours
            )
        self.pid = self._process.pid

    def hello(self) -> dict[str, Any]:
        """What the process says of the file once it is loaded. Raises Unusable or Ended, and has ended it then."""
        try:
            hello = self.read(time.monotonic() + _START)
            if "broken" in hello:
                raise Unusable(one_line(hello["broken"]), hello["line"])
        except TimeoutError:
            line = self.where(self.pid)
            self.end(grace=0)
            raise Unusable(f"it was still loading after {_START:g} s", line) from None
        except BaseException:
            self.end(grace=1)
            raise
        return hello

    def end(self, grace: float) -> None:
        """Ends the process, after `grace` seconds by force, and whatever it started."""
        self.socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def why_ended(self) -> str:
        """How the process ended."""
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "its process closed the connection"
        return f"its process exited with status {status}" if status >= 0 else f"its process died of signal {-status}"


def _plain(value: Any) -> Any:
    """What JSON does not know, as something that it does."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):  # arrays and tensors
        return value.tolist()
    raise TypeError(f"a column holds {type(value).__name__}, which JSON cannot")
