"""A server that is asked to stop while it answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from minimax_m1.wire.sse import Event, EventReader

QUESTION = {"input": "Tell me a story.", "stream": True, "ignore_eos": True, "max_output_tokens": 600}


@contextmanager
def serving(home: Path, drain: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    options = ["--port", "0", "--home", str(home), "--drain", drain]
    command = [sys.executable, "-m", "minimax_m1", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line[line.index("http://") :].split()[0]
        finally:
            process.kill()


def events_of(url: str, process: subprocess.Popen[str]) -> list[Event]:
    """All events of a stream during which the server is asked to stop."""
    reader, events, asked = EventReader(), list[Event](), False
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{url}/v1/minimax-m1/generate", json=QUESTION) as got,
    ):
        for piece in got.iter_raw():
            events += reader.feed(piece)
            if not asked and any(event.name in ("text", "reasoning") for event in events):
                process.send_signal(signal.SIGTERM)
                asked = True
    return events


@pytest.mark.parametrize(("drain", "last"), [("30", "done"), ("0", "error")])
def test_open_streams_end_in_their_own_words(tmp_path: Path, drain: str, last: str) -> None:
    with serving(tmp_path, drain) as (process, url):
        events = events_of(url, process)
        assert process.wait(30) == -signal.SIGTERM  # uvicorn hands the signal on when all is done
    assert events[-1].name == last
    told = json.loads(events[-1].data)
    if last == "done":
        assert told["usage"]["output_tokens"] == 600
    else:
        assert told["error"]["code"] == "model_closed"
