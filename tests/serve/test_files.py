"""Files, through the official client: up, listed, down, gone; after a restart too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minimax_m1.errors import RequestError
from minimax_m1.serve.files import Files
from minimax_m1.serve.service import Service
from minimax_m1.serve.store import Store
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.files import Expiry

NOW = 1_800_000_000.0
HOUR, DAY = 3600, 86_400


class House:
    """Files over a home, the routes round them, a client, and a clock that can be set."""

    def __init__(self, home: Path, *, limit: int = 10**6) -> None:
        self.now = NOW
        self.home = home
        self.store = Store(home / "server.db")
        service = cast(Service, SimpleNamespace(store=self.store, home=home, name="nano"))
        self.files = files = Files(service, limit=limit, clock=lambda: self.now)

        def at(path: str, method: str, work: Callable[[Request], Awaitable[Response]]) -> Route:
            async def told(request: Request) -> Response:
                try:
                    return await work(request)
                except (RequestError, Fault) as error:
                    fault = Fault.of(error)
                    return Response(fault.reply.model_dump_json(), fault.status, media_type="application/json")

            return Route(path, told, methods=[method])

        app = Starlette(
            routes=[
                at("/v1/files", "POST", files.upload),
                at("/v1/files", "GET", lambda request: files.page(request.query_params)),
                at("/v1/files/{id}", "GET", lambda request: files.show(request.path_params["id"])),
                at("/v1/files/{id}/content", "GET", lambda request: files.content(request.path_params["id"])),
                at("/v1/files/{id}", "DELETE", lambda request: files.remove(request.path_params["id"])),
            ]
        )
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://house/v1")
        self.client = openai.AsyncOpenAI(
            base_url="http://house/v1", api_key="none", max_retries=0, http_client=cast(Any, self.http)
        )

    def on_disk(self) -> list[str]:
        return sorted(path.name for path in (self.home / "files").iterdir())

    async def close(self) -> None:
        await self.files.close()
        await self.http.aclose()
        await self.store.close()


def living(home: Path, work: Callable[[House], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        house = House(home, **options)
        try:
            await work(house)
        finally:
            await house.close()

    asyncio.run(run())


def test_a_file_goes_up_and_comes_down_and_survives_a_restart(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    ids = []

    async def up(house: House) -> None:
        file = await house.client.files.create(file=("Über 雪.bin", data), purpose="user_data")
        ids.append(file.id)
        assert file.id.startswith("file-") and file.object == "file" and file.status == "processed"
        assert (file.bytes, file.filename, file.purpose) == (len(data), "Über 雪.bin", "user_data")
        assert (file.created_at, file.expires_at) == (NOW, None)

    async def down(house: House) -> None:
        [file] = [each async for each in house.client.files.list()]
        assert file.id == ids[0] and await house.client.files.retrieve(file.id) == file
        content = await house.client.files.content(file.id)
        assert content.read() == data
        assert "attachment" in content.response.headers["content-disposition"]
        part = await house.http.get(f"/files/{file.id}/content", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, data[10:20])
        gone = await house.client.files.delete(file.id)
        assert gone.deleted and gone.id == file.id
        for ask in (house.client.files.retrieve, house.client.files.content, house.client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(file.id)
        assert house.on_disk() == [] and [each async for each in house.client.files.list()] == []

    living(tmp_path, up)
    living(tmp_path, down)


def test_files_are_listed_in_pages_by_purpose_and_order(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        for number in range(7):
            purpose: Any = "batch" if number % 2 else "assistants"
            await house.client.files.create(file=(f"{number}", b"x"), purpose=purpose)

        async def names(**asked: Any) -> str:
            return "".join([file.filename async for file in house.client.files.list(**asked)])

        assert await names() == await names(limit=2) == "6543210"
        assert await names(order="asc", limit=3) == "0123456"
        assert await names(purpose="batch", limit=1) == "531"
        assert await names(purpose="vision") == ""
        page = await house.client.files.list(limit=2)
        assert page.has_more and (page.data[-1].filename, len(page.data)) == ("5", 2)
        assert not (await house.client.files.list(limit=7)).has_more

    living(tmp_path, work)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=y", "after")],
)
def test_a_query_that_makes_no_sense_is_refused(tmp_path: Path, query: str, param: str) -> None:
    async def work(house: House) -> None:
        reply = await house.http.get(f"/files?{query}")
        assert reply.status_code == 400 and reply.json()["error"]["param"] == param

    living(tmp_path, work)


def test_a_form_that_is_not_right_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def expiry(anchor: str, seconds: str) -> dict[str, str]:
        return {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}

    async def work(house: House) -> None:
        refused: list[tuple[dict[str, str], str]] = [
            ({}, "purpose"),
            ({"purpose": "batch_output"}, "purpose"),
            ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
            ({"purpose": "batch"} | expiry("now", "3600"), "expires_after.anchor"),
            ({"purpose": "batch"} | expiry("created_at", "3599"), "expires_after.seconds"),
        ]
        for fields, param in refused:
            reply = await house.http.post("/files", data=fields, files={"file": ("x", b"x")})
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        reply = await house.http.post("/files", data={"purpose": "batch"}, files={"file": ("x", b"x" * 1001)})
        assert reply.status_code == 413
        assert house.on_disk() == [] and [each async for each in house.client.files.list()] == []

    living(tmp_path, work, limit=1000)


def test_a_file_expires_when_it_was_told_to_and_one_for_batches_after_30_days(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        short = await house.client.files.create(
            file=("a", b"x"), purpose="vision", expires_after={"anchor": "created_at", "seconds": HOUR}
        )
        batch = await house.client.files.create(file=("b", b"x"), purpose="batch")
        stays = await house.client.files.create(file=("c", b"x"), purpose="evals")
        assert (short.expires_at, batch.expires_at, stays.expires_at) == (NOW + HOUR, NOW + 30 * DAY, None)
        house.now = NOW + HOUR - 1
        assert (await house.client.files.retrieve(short.id)).id == short.id
        house.now = NOW + HOUR
        with pytest.raises(openai.NotFoundError):
            await house.client.files.content(short.id)
        assert [file.id async for file in house.client.files.list()] == [stays.id, batch.id]
        await house.files.sweep()
        assert house.on_disk() == sorted(file.id.removeprefix("file-") for file in (batch, stays))
        assert await house.store.get("file", short.id) is None

    living(tmp_path, work)


def test_what_a_killed_server_left_is_swept_away_once_no_upload_can_be_behind_it(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        file = await house.client.files.create(file=("a", b"x"), purpose="vision")
        for name, age in (("half.new", 2 * DAY), ("whole", 2 * DAY), ("fresh.new", HOUR)):
            path = tmp_path / "files" / name
            path.write_bytes(b"x")
            os.utime(path, (NOW - age, NOW - age))
        os.utime(house.files.path(file.id), (NOW - 2 * DAY, NOW - 2 * DAY))
        await house.files.start()
        while "half.new" in house.on_disk() or "whole" in house.on_disk():
            await asyncio.sleep(0.01)
        assert house.on_disk() == sorted(["fresh.new", file.id.removeprefix("file-")])

    living(tmp_path, work)


def test_a_file_whose_bytes_someone_removed_is_a_404(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        file = await house.client.files.create(file=("a", b"x"), purpose="vision")
        house.files.path(file.id).unlink()
        with pytest.raises(openai.NotFoundError, match="content"):
            await house.client.files.content(file.id)

    living(tmp_path, work)


def test_an_output_is_adopted_once(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        source = tmp_path / "output"
        source.write_bytes(b"answers")
        expiry = Expiry(anchor="created_at", seconds=HOUR)
        await house.files.adopt("file-o", source, "out.jsonl", expiry)
        house.now += 5
        await house.files.adopt("file-o", source, "out.jsonl", expiry)
        source.unlink()
        file = await house.client.files.retrieve("file-o")
        assert (file.purpose, file.bytes, file.created_at, file.expires_at) == ("batch_output", 7, NOW, NOW + HOUR)
        assert (await house.client.files.content("file-o")).read() == b"answers"

    living(tmp_path, work)
