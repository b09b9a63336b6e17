"""The server as a whole: statuses, loading, bodies, clients that leave."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.requests import Request

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import CheckpointError
from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import pieces_of
from minimax_m1.wire.errors import Fault

NATIVE, CHAT = "/v1/minimax-m1/generate", "/v1/chat/completions"
OPENAI_KEYS = {"message", "type", "param", "code"}


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", NATIVE, 405),
        ("DELETE", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("POST", NATIVE, 400),
        ("POST", CHAT, 400),
    ],
)
def test_every_error_has_openai_s_shape(served: Any, method: str, path: str, status: int) -> None:
    with served.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == OPENAI_KEYS
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("path", [NATIVE, CHAT])
@pytest.mark.parametrize("body", [b"", b"not json", b"\xff", b"[1]", b'{"input": NaN}', b"{" * 9999])
def test_a_body_that_is_not_json(served: Any, path: str, body: bytes) -> None:
    with served.client() as client:
        answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit(served: Any, chunked: bool) -> None:
    body = b" " * 300_000
    with served.client() as client:
        answer = client.post(NATIVE, content=iter([body]) if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large" and "200000 bytes" in answer.json()["error"]["message"]


def test_the_content_type_does_not_matter(served: Any) -> None:
    with served.client() as client:
        headers = {"content-type": "application/x-www-form-urlencoded"}  # curl -d without -H
        assert client.post(NATIVE, content=b'{"input": "2 + 2"}', headers=headers).json()["text"] == "4"


def test_the_document_names_what_it_refers_to(served: Any) -> None:
    with served.client() as client:
        document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = document["paths"][NATIVE]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/GenerateRequest"}
    refs = {ref.rpartition("/")[2] for ref in str(document).replace("'", " ").split() if ref.startswith("#/")}
    assert refs and refs <= set(schemas)


def test_a_request_that_the_engine_cannot_take_ends_alone(served: Any) -> None:
    with served.client() as client:
        answer = client.post(NATIVE, json={"input": "refuse to take me"})
        assert answer.status_code == 500 and "ZeroDivision" not in answer.text
        assert client.post(NATIVE, json={"input": "2 + 2"}).json()["text"] == "4"


def test_an_engine_that_fails_ends_what_is_open_and_goes_on(slow: Any) -> None:
    with slow.client() as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        long = pool.submit(client.post, NATIVE, json={"input": "count"})
        until(lambda: slow.engine.told > 2)
        assert client.post(NATIVE, json={"input": "boom"}).status_code == 500
        assert long.result(10).status_code == 500
        assert client.post(NATIVE, json={"input": "2 + 2"}).json()["text"] == "4"
    assert not slow.engine.busy


@pytest.mark.parametrize("path", [NATIVE, CHAT])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(slow: Any, path: str, stream: bool) -> None:
    question = {"input": "count"} if path == NATIVE else {"messages": [{"role": "user", "content": "count"}], "n": 2}
    with slow.client() as client, pytest.raises(httpx2.ReadTimeout):
        if stream:
            with client.stream("POST", path, json={**question, "stream": True}) as answer:
                next(answer.iter_raw())
                assert slow.engine.busy
                raise httpx2.ReadTimeout("enough")
        client.post(path, json=question, timeout=0.3)
    until(lambda: not slow.engine.busy, 3)
    assert slow.engine.told < 200
    assert {request.id for request in slow.engine.requests} == set(slow.engine.cancelled)


def test_a_client_that_leaves_in_the_middle_of_its_body(served: Any) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/minimax-m1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    with served.client() as client:
        assert client.get("/health").status_code == 200


def test_many_at_once(served: Any) -> None:
    with served.client() as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        texts = ["2 + 2", "hello", "snow"] * 16
        answers = list(pool.map(lambda text: client.post(NATIVE, json={"input": text}).json()["text"], texts))
    assert answers == ["4", "Hello, how are you? I am fine.", "It is ❄ and 雪, 🎿!"] * 16


def test_health_while_loading_then_ready(
    run_app: Any, load_over: Any, served: Any, tokenizer: Any, tmp_path: Any
) -> None:
    go = threading.Event()

    def load() -> Loaded:
        assert go.wait(20)
        return load_over(served.engine, tokenizer, SamplingParams())

    with run_app(create_app(load, name="nano", home=tmp_path)) as url, httpx2.Client(base_url=url) as client:
        for answer in (client.get("/health"), client.post(NATIVE, json={"input": "hello"}), client.get("/v1/models")):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert answer.headers["retry-after"] == "1"
        assert client.get("/health").json()["status"] == "loading"
        go.set()
        until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json() == {"status": "ready", "model": "nano"}


def test_health_tells_why_loading_failed(run_app: Any, tmp_path: Any) -> None:
    def load() -> Loaded:
        raise CheckpointError("model.safetensors is cut")

    with run_app(create_app(load, name="nano", home=tmp_path)) as url, httpx2.Client(base_url=url) as client:
        until(lambda: client.get("/health").json()["status"] == "failed")
        assert client.get("/health").json()["error"]["message"] == "model.safetensors is cut"
        assert "model.safetensors is cut" in client.post(NATIVE, json={"input": "hello"}).json()["error"]["message"]


def test_closing_the_server_ends_open_requests(
    run_app: Any, load_over: Any, slow: Any, tokenizer: Any, tmp_path: Any
) -> None:
    loaded = load_over(type(slow.engine)(tokenizer, pause=0.03), tokenizer, SamplingParams())
    with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx2.Client() as client:
        with run_app(create_app(lambda: loaded, name="nano", home=tmp_path)) as url:
            until(lambda: client.get(url + "/health").status_code == 200)
            open_ = pool.submit(client.post, url + NATIVE, json={"input": "count"}, timeout=20)
            until(lambda: bool(loaded.engine.busy))
        answer = open_.result(10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_closed")
    until(lambda: bool(loaded.engine.cancelled))


def test_a_body_that_stops_coming_is_given_up() -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    async def read() -> None:
        async for _ in pieces_of(Request({"type": "http", "method": "POST", "headers": []}, never), patience=0.05):
            pass

    with pytest.raises(Fault, match="nothing of the body came") as caught:
        asyncio.run(read())
    assert caught.value.status == 408
