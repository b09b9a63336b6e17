"""A context's life through the client, with the shipped model: read, asked, extended, branched, deleted."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from minimax_m1.client import AsyncClient, Client
from minimax_m1.client.errors import Conflict, NotFound
from minimax_m1.serve.app import create_app
from minimax_m1.serve.loading import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "ask_a_file.py"
NANO = Path(str(files("minimax_m1"))) / "assets" / "nano"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (NANO / "model.safetensors").is_file():
        pytest.skip("nano's weights are not here yet")
    home = tmp_path_factory.mktemp("home")
    app = create_app(lambda: load(NANO, dtype="auto", device="cpu", max_model_len=None), name="nano", home=home)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(url, max_retries=100) as client:
        client.health()
    yield url
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    words = random.Random(0).choices(["river", "stone", "lamp", "the", "of", "and", "road"], k=1_500)
    (tmp_path / "book.txt").write_text(" ".join(words))
    return tmp_path / "book.txt"


def test_the_life_of_a_context(url: str, book: Path) -> None:
    heard: list[Any] = []
    with Client(url) as client:
        made = client.contexts.create("book", path=book, save_every=256, on_progress=lambda *told: heard.append(told))
        assert (made.id, made.status, made.kind, made.sources) == ("book", "ready", "text", ["book.txt"])
        assert len(heard) > 2 and heard == sorted(heard, key=lambda told: told[0])
        assert heard[-1] == (made.tokens, made.total)
        reply = client.contexts.ask("book", "What is 17 + 25?", temperature=0, max_output_tokens=50)
        assert reply.usage.cached_tokens > 0.95 * made.tokens
        with client.contexts.ask_stream("book", "What is 17 + 25?", temperature=0, max_output_tokens=50) as stream:
            assert stream.reply().text == reply.text
        same = client.generate(input="What is 17 + 25?", context_id="book", temperature=0, max_output_tokens=50)
        assert same.text == reply.text
        assert client.contexts.branch("book", "copy").tokens == made.tokens
        longer = client.contexts.extend("copy", text="And that was the end.")
        assert longer.tokens > made.tokens == client.contexts.get("book").tokens
        assert [each.id for each in client.contexts.list()] == ["book", "copy"]
        for id in ("book", "copy"):
            assert client.contexts.delete(id).deleted
        with pytest.raises(NotFound):
            client.contexts.get("book")


def test_another_text_under_a_name_that_is_taken(url: str) -> None:
    with Client(url) as client:
        client.contexts.create("taken", text="One text.")
        assert client.contexts.create("taken", text="One text.").status == "ready"
        with pytest.raises(Conflict):
            client.contexts.create("taken", text="Quite another.")


def test_a_conversation_from_a_coroutine(url: str) -> None:
    async def live() -> None:
        async with AsyncClient(url) as client:
            talk = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
            made = await client.contexts.create(messages=talk)
            assert (made.kind, made.messages) == ("chat", 2)
            reply = await client.contexts.ask(made.id, "What is 17 + 25?", temperature=0)
            assert reply.text == "42" and reply.usage.cached_tokens > 0

    asyncio.run(live())


def test_the_example_answers_about_a_file(url: str, book: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), str(book)],
        input="What is 17 + 25?\n\n",
        env={**os.environ, "MINIMAX_M1_BASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Ask; an empty line ends." in run.stdout and len(run.stdout.rpartition("> ")[0].splitlines()[-1]) > 2
    with Client(url) as client:
        assert client.contexts.get("book-txt").status == "ready"


def test_reading_in_the_background(url: str, book: Path) -> None:
    with Client(url) as client:
        made = client.contexts.create("later", path=book, background=True)
        assert made.status == "reading"
        end = time.monotonic() + 60
        while (now := client.contexts.get("later")).status == "reading":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert now.status == "ready" and now.tokens > 1_000
