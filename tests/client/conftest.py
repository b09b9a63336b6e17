"""Two servers on loopback: one of sockets and bytes, which does whatever a test says, and the real one, scripted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from minimax_m1.engine.request import SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Piece = bytes | float | threading.Event  # bytes to send, seconds to pause, something to wait for


@dataclass
class Asked:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RawServer:
    """Answers each connection's one request with the next list of pieces, then closes it."""

    script: list[Sequence[Piece]]
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client left in the middle
    url: str = ""

    def serve(self, listener: socket.socket) -> None:
        for pieces in self.script:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                self.asked.append(_read(connection))
                for piece in pieces:
                    try:
                        self._play(connection, piece)
                    except OSError:
                        self.left.set()
                        break

    def _play(self, connection: socket.socket, piece: Piece) -> None:
        if isinstance(piece, bytes):
            connection.sendall(piece)
        elif isinstance(piece, float):
            time.sleep(piece)
        else:
            assert piece.wait(10)


def _read(connection: socket.socket) -> Asked:
    connection.settimeout(10)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return Asked(line=line, headers=headers, body=body)


@contextmanager
def _raw(*script: Sequence[Piece]) -> Iterator[RawServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    server = RawServer(list(script), url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    thread = threading.Thread(target=lambda: _quietly(server, listener), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.close()
        thread.join(10)


def _quietly(server: RawServer, listener: socket.socket) -> None:
    with listener, suppress(OSError):  # closed at the end, so that whoever comes then is not left waiting
        server.serve(listener)


@pytest.fixture(scope="session")
def raw() -> Callable[..., Any]:
    """`with raw(pieces, pieces...) as server`: one list of pieces a connection."""
    return _raw


CALL = '{"name": "add", "arguments": {"a": 2, "b": 2}}'
REPLIES = {
    "2 + 2": "<think>\n2+2=4 4\n</think>\n\n4",
    "snow": "It is ❄ and 雪, 🎿!",
    "call": f"<think>\nA tool.\n</think>\n\nWell:\n<tool_calls>\n{CALL}\n{CALL}\n</tool_calls>",
    "count": "one two three four five six seven eight nine ten " * 400,
}


class Script(ScriptedEngine):
    """Answers the last user's message; a step takes 2 ms."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer) -> None:
        def reply(prompt: Sequence[int]) -> list[int]:
            text = str(tokenizer.decode(list(prompt))).rpartition("user name=user\n")[2]
            [said] = [answer for asked, answer in REPLIES.items() if asked in text] or ["?"]
            assert tokenizer.eos_token_id is not None
            return [*tokenizer.encode(said), tokenizer.eos_token_id]

        super().__init__(reply, vocab_size=tokenizer.vocab_size, max_model_len=8192, prefill_chunk=64)

    def step(self) -> list[TokenEvent]:
        time.sleep(0.002)
        return super().step()


@dataclass(frozen=True)
class Live:
    """A running server and the engine behind it."""

    url: str
    engine: Script
    tokenizer: MiniMaxM1Tokenizer

    def idle(self) -> None:
        """Waits until the engine has nothing to do."""
        end = time.monotonic() + 5
        while self.engine.busy:
            assert time.monotonic() < end, "the engine is still busy"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    tokenizer = MiniMaxM1Tokenizer.train([*REPLIES.values()] * 3, vocab_size=400)
    engine = Script(tokenizer)
    guides = GuideMaker(tokenizer, tokenizer.vocab_size)
    defaults = SamplingParams(temperature=0.0, max_tokens=6000)
    loaded = Loaded(
        engine=engine, tokenizer=tokenizer, guides=guides, defaults=defaults, fingerprint="f" * 64, dtype="float32"
    )
    app = create_app(lambda: loaded, name="nano", home=tmp_path_factory.mktemp("home"), ping=0.5)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, tokenizer)
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()
