"""Too many at once."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from minimax_m1.serve.limits import Limits


class Door:
    """An application whose answers wait until it is told to go on; it fails on /boom."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/boom":
            raise RuntimeError("boom")
        self.inside += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.go.wait()
        self.inside -= 1
        await send({"type": "http.response.body", "body": b"done"})


def client(app: Limits) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x")


async def full(door: Door, http: httpx2.AsyncClient, count: int) -> list[asyncio.Task[httpx2.Response]]:
    waiting = [asyncio.create_task(http.post("/v1/chat/completions")) for _ in range(count)]
    while door.inside < count:
        await asyncio.sleep(0)
    return waiting


def test_one_too_many_is_told_to_come_back_and_then_is_let_in() -> None:
    async def scene() -> None:
        door = Door()
        async with client(Limits(door, max_requests=2)) as http:
            waiting = await full(door, http, 2)
            refused = await http.post("/v1/chat/completions")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            error = refused.json()["error"]
            assert (error["code"], error["type"]) == ("too_many_requests", "invalid_request_error")
            assert error["message"].startswith("2 requests are open")
            assert door.inside == 2
            door.go.set()
            assert [(await each).text for each in waiting] == ["done", "done"]
            assert (await http.post("/v1/chat/completions")).text == "done"

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_anthropic_s_clients_are_told_in_their_shape() -> None:
    async def scene() -> None:
        async with client(Limits(Door(), max_requests=0)) as http:
            refused = await http.post("/v1/messages")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert (refused.json()["type"], refused.json()["error"]["type"]) == ("error", "rate_limit_error")

    asyncio.run(asyncio.wait_for(scene(), 10))


@pytest.mark.parametrize("path", ["/health", "/metrics", "/docs", "/docs/start.js", "/openapi.json"])
def test_an_operator_is_always_let_in_and_takes_nobody_s_place(path: str) -> None:
    async def scene() -> None:
        door = Door()
        async with client(Limits(door, max_requests=1)) as http:
            looking = asyncio.create_task(http.get(path))
            waiting = await full(door, http, 1)
            door.go.set()
            assert [(await each).text for each in (looking, *waiting)] == ["done", "done"]
            assert (await http.get(path)).status_code == 200
            assert (await http.post("/health2")).status_code == 200

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_a_request_that_breaks_or_is_cancelled_gives_its_place_back() -> None:
    async def scene() -> None:
        door = Door()
        async with client(Limits(door, max_requests=1)) as http:
            for _ in range(3):
                with pytest.raises(RuntimeError, match="boom"):
                    await http.get("/boom")
            [gone] = await full(door, http, 1)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            door.go.set()
            assert (await http.get("/v1/models")).status_code == 200

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> None: ...

    asyncio.run(Limits(app, max_requests=0)({"type": "lifespan"}, nothing, nothing))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
