"""The same key gives the same reply: once done, twice told; bounded; never another request's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from minimax_m1.errors import RequestError
from minimax_m1.serve.idempotency import Idempotency
from minimax_m1.wire.errors import Fault


class Work:
    """Counts how often it ran; `gate` holds it up."""

    def __init__(self, reply: Response | Exception | None = None) -> None:
        self.ran = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._reply = reply

    async def __call__(self) -> Response:
        self.ran += 1
        await self.gate.wait()
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply or Response(f"answer {self.ran}", 201, headers={"x-made-by": "work"})


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_the_same_request_again_gets_the_kept_reply_with_its_headers() -> None:
    async def check() -> None:
        once, work = Idempotency(), Work()
        first = await once.once("key", b"body", work)
        first.headers["x-request-id"] = "1"  # what a server adds while it sends stays out of what is kept
        again = await once.once("key", b"body", work)
        assert work.ran == 1
        assert (again.status_code, again.body) == (first.status_code, first.body) == (201, b"answer 1")
        assert again.headers["x-made-by"] == "work" and "x-request-id" not in again.headers
        assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
        await once.once("other key", b"body", work)
        await once.once("key", b"body", work, scope="/other/path")
        assert work.ran == 3

    run(check())


def test_one_that_comes_while_the_first_runs_waits_for_it() -> None:
    async def check() -> None:
        once, work = Idempotency(), Work()
        work.gate.clear()
        tasks = [asyncio.create_task(once.once("key", b"body", work)) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert work.ran == 1 and not any(task.done() for task in tasks)
        work.gate.set()
        replies = await asyncio.gather(*tasks)
        assert work.ran == 1 and {reply.body for reply in replies} == {b"answer 1"}
        assert ["idempotent-replayed" in reply.headers for reply in replies] == [False] + [True] * 4

    run(check())


def test_where_the_first_client_leaves_the_second_runs() -> None:
    async def check() -> None:
        once, work = Idempotency(), Work()
        work.gate.clear()
        tasks = [asyncio.create_task(once.once("key", b"body", work)) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert work.ran == 2
        work.gate.set()
        replies = await asyncio.gather(*tasks[1:])
        assert work.ran == 2 and {reply.body for reply in replies} == {b"answer 2"}

    run(check())


def test_another_body_under_the_same_key_is_refused_while_it_runs_and_after() -> None:
    async def check() -> None:
        once, work = Idempotency(), Work()
        work.gate.clear()
        task = asyncio.create_task(once.once("key", b"body", work))
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(Fault, match="'key' was used for another request") as caught:
                await once.once("key", b"another body", work)
            assert (caught.value.status, caught.value.code) == (400, "idempotency_key_reused")
            work.gate.set()
            await task
        assert work.ran == 1

    run(check())


@pytest.mark.parametrize(
    "outcome",
    [
        Fault(503, "busy", code="server_busy"),
        ZeroDivisionError(),
        Response("broken", 500),
        StreamingResponse(iter([b"x"])),
        Response(b"x" * 1001),
    ],
)
def test_what_failed_or_streams_or_is_too_long_is_not_kept(outcome: Response | Exception) -> None:
    async def check() -> None:
        once, work = Idempotency(nbytes=1000), Work(outcome)
        for times in (1, 2):
            if isinstance(outcome, Exception):
                with pytest.raises(type(outcome)):
                    await once.once("key", b"body", work)
            else:
                assert await once.once("key", b"body", work) is outcome
            assert work.ran == times

    run(check())


def test_the_least_recently_used_goes_first_by_count_and_by_bytes() -> None:
    async def check() -> None:
        for once in (Idempotency(most=3), Idempotency(nbytes=3 * 8 + 7)):
            work = Work()
            for key in "abc":
                await once.once(key, b"", work)
            await once.once("a", b"", work)  # used again
            await once.once("d", b"", work)  # b goes
            assert work.ran == 4
            for key in "acd":
                await once.once(key, b"", work)
            assert work.ran == 4
            await once.once("b", b"", work)
            assert work.ran == 5

    run(check())


def test_a_reply_is_forgotten_after_its_time() -> None:
    async def check() -> None:
        now = [0.0]
        once, work = Idempotency(seconds=10, nbytes=8, clock=lambda: now[0]), Work()
        for moment, ran in ((0.0, 1), (9.9, 1), (10.0, 2), (19.9, 2)):
            now[0] = moment
            await once.once("key", b"", work)
            assert work.ran == ran

    run(check())


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_impossible_key_is_refused(key: str) -> None:
    async def check() -> None:
        with pytest.raises(RequestError, match=f"1 to 255 characters, this one has {len(key)}"):
            await Idempotency().once(key, b"", Work())

    run(check())
