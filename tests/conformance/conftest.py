"""The shipped model on a loopback port, for other people's clients to talk to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import uvicorn

from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.loading import load

NANO = Path(str(files("minimax_m1"))) / "assets" / "nano"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where nano answers."""
    if not (NANO / "model.safetensors").is_file():
        pytest.skip("nano's weights are not here yet")
    ready = threading.Event()

    def nano() -> Loaded:
        return load(NANO, dtype="auto", device="cpu", max_model_len=8192)

    app = create_app(nano, name="nano", home=tmp_path_factory.mktemp("home"), ready=lambda _: ready.set())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    assert ready.wait(110)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()
