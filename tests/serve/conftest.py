"""A server on a loopback port over scripted replies: real HTTP, no weights."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from minimax_m1.engine.request import Engine, RepetitionStop, Request, SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

CALL = '{"name": "add", "arguments": {"a": 2, "b": 2}}'
REPLIES = {
    "2 + 2": "<think>\n2+2=4 4\n</think>\n\n4",
    "hello": "Hello, how are you? I am fine.",
    "snow": "It is ❄ and 雪, 🎿!",
    "call": f"<tool_calls>\n{CALL}\n</tool_calls>",
    "twice": f"<think>\nBoth.\n</think>\n\nWell:\n<tool_calls>\n{CALL}\n{CALL}\n</tool_calls>",
    "count": "one two three four five six seven eight nine ten " * 400,
}


class WatchedEngine(ScriptedEngine):
    """Keeps its requests and cancels; a step takes `pause` seconds, and one with "boom" in a prompt raises."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, *, pause: float = 0.0, max_model_len: int = 8192) -> None:
        def reply(prompt: Sequence[int]) -> list[int]:
            text = str(tokenizer.decode(list(prompt))).rpartition("user name=user\n")[2]
            [said] = [answer for asked, answer in REPLIES.items() if asked in text] or ["?"]
            assert tokenizer.eos_token_id is not None
            return [*tokenizer.encode(said), tokenizer.eos_token_id]

        super().__init__(
            reply, vocab_size=tokenizer.vocab_size, eos_ids=(), max_model_len=max_model_len, prefill_chunk=64
        )
        self._tokenizer = tokenizer
        self._pause = pause
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.told = 0

    def submit(self, request: Request) -> None:
        if "refuse to take me" in str(self._tokenizer.decode(list(request.prompt))):
            raise ZeroDivisionError
        super().submit(request)
        self.requests.append(request)

    def cancel(self, request_id: str) -> None:
        super().cancel(request_id)
        self.cancelled.append(request_id)

    def step(self) -> list[TokenEvent]:
        time.sleep(self._pause)
        for sequence, _ in self._open.values():
            if "boom" in str(self._tokenizer.decode(sequence.prompt.tolist())):
                raise RuntimeError("boom")
        events = super().step()
        self.told += len(events)
        return events


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server."""

    url: str
    engine: WatchedEngine

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=20)


@pytest.fixture(scope="session")
def tokenizer() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.train([*REPLIES.values()] * 3, vocab_size=400)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serves `app` in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def run_app() -> Callable[[FastAPI], object]:
    return running


def loaded_over(engine: Engine, tokenizer: MiniMaxM1Tokenizer, defaults: SamplingParams) -> Loaded:
    guides = GuideMaker(tokenizer, tokenizer.vocab_size)
    return Loaded(engine=engine, tokenizer=tokenizer, guides=guides, defaults=defaults)


@pytest.fixture(scope="session")
def load_over() -> Callable[[Engine, MiniMaxM1Tokenizer, SamplingParams], Loaded]:
    return loaded_over


def _serve(
    tokenizer: MiniMaxM1Tokenizer, pause: float, ping: float, repetition_stop: RepetitionStop | None = None
) -> Iterator[Served]:
    engine = WatchedEngine(tokenizer, pause=pause)
    defaults = SamplingParams(temperature=0.0, max_tokens=6000, repetition_stop=repetition_stop)
    loaded = loaded_over(engine, tokenizer, defaults)
    with (
        TemporaryDirectory() as home,
        running(create_app(lambda: loaded, name="nano", home=Path(home), body_limit=200_000, ping=ping)) as url,
        httpx2.Client(base_url=url) as client,
    ):
        while client.get("/health").status_code != 200:
            time.sleep(0.01)
        yield Served(url=url, engine=engine)


@pytest.fixture(scope="session")
def served(tokenizer: MiniMaxM1Tokenizer) -> Iterator[Served]:
    yield from _serve(tokenizer, 0.0, 5.0)


@pytest.fixture
def strict(tokenizer: MiniMaxM1Tokenizer) -> Iterator[Served]:
    """Ends a reply that goes round in a loop."""
    yield from _serve(tokenizer, 0.0, 5.0, RepetitionStop(window=120, max_period=60))


@pytest.fixture
def slow(tokenizer: MiniMaxM1Tokenizer) -> Iterator[Served]:
    """One step takes 30 ms, and a ping comes after 10 ms of silence."""
    yield from _serve(tokenizer, 0.03, 0.01)
