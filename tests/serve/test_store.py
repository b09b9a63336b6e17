"""Records in one file: order, restarts, several servers, damage."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from minimax_m1.errors import DataError, RequestError
from minimax_m1.serve.store import VERSION, Store

T = TypeVar("T")


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """What `work` gives with the store open, which is closed afterwards."""

    async def run() -> T:
        store = Store(path)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "server.db"


def test_a_record_comes_back_after_a_restart(path: Path) -> None:
    value = {"text": "雪 ❄ \ud800 \x00", "n": 1.5, "none": None, "list": [1, {"a": True}]}
    using(path, lambda store: store.put("file", "a", value))
    assert using(path, lambda store: store.get("file", "a")) == value
    assert using(path, lambda store: store.get("batch", "a")) is None
    assert using(path, lambda store: store.delete("file", "a"))
    assert not using(path, lambda store: store.delete("file", "a"))
    assert using(path, lambda store: store.get("file", "a")) is None


def test_records_are_listed_in_the_order_of_their_making(path: Path) -> None:
    async def work(store: Store) -> None:
        for number in range(7):
            await store.put("file", f"f{number}", {"n": number, "colour": "red" if number % 2 else "blue"})
            await store.put("batch", f"f{number}", {"n": -1})
        await store.put("file", "f2", {"n": 22, "colour": "blue"})  # a new value keeps the old place
        await store.delete("file", "f4")

        async def numbers(**asked: Any) -> list[int]:
            return [record["n"] for record in await store.list("file", **asked)]

        assert await numbers() == [6, 5, 3, 22, 1, 0]
        assert await numbers(descending=False, limit=3) == [0, 1, 22]
        assert await numbers(after="f3", limit=2) == [22, 1]
        assert await numbers(after="f2", descending=False) == [3, 5, 6]
        assert await numbers(having={"colour": "red"}) == [5, 3, 1]
        assert await numbers(after="f0") == []
        with pytest.raises(RequestError, match="there is no file 'f4'"):
            await store.list("file", after="f4")
        await store.put("file", "f4", {"n": 44})  # made anew, it is the newest
        assert await numbers(limit=1) == [44]

    using(path, work)


def test_a_change_sees_no_one_write_in_between(path: Path) -> None:
    def more(record: dict[str, Any] | None) -> dict[str, Any]:
        return {"n": (record or {"n": 0})["n"] + 1}

    async def work(store: Store) -> None:
        other = Store(path)
        await asyncio.gather(*(each.change("count", "a", more) for each in (store, other) for _ in range(50)))
        await other.close()
        assert await store.get("count", "a") == {"n": 100}
        assert await store.change("count", "a", lambda _: None) is None
        with pytest.raises(ZeroDivisionError):
            await store.change("count", "a", lambda _: {"n": 1 // 0})
        assert await store.change("count", "a", more) == {"n": 101}

    using(path, work)


def test_what_is_not_json_is_refused_and_an_id_that_no_one_can_have_is_not_found(path: Path) -> None:
    async def work(store: Store) -> None:
        for value in ({"x": float("nan")}, {"x": object()}):
            with pytest.raises(Exception, match=r"JSON"):
                await store.put("file", "a", value)
        assert await store.get("file", "a") is None
        assert await store.get("file", "\ud800") is None

    using(path, work)


def test_a_cancelled_call_leaves_the_store_usable(path: Path) -> None:
    async def work(store: Store) -> None:
        tasks = [asyncio.create_task(store.put("file", f"{n}", {"n": n})) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.put("file", "last", {"n": -1})
        assert (await store.list("file", limit=1)) == [{"n": -1}]

    using(path, work)


def test_twelve_may_open_a_new_file_at_the_same_moment(path: Path) -> None:
    together = threading.Barrier(12)

    def open_one(_: int) -> Store:
        together.wait()
        return Store(path)

    with ThreadPoolExecutor(12) as pool:
        stores = list(pool.map(open_one, range(12)))

    async def work() -> None:
        for number, store in enumerate(stores):
            await store.put("file", f"{number}", {"n": number})
        assert await stores[0].list("file", limit=12) == [{"n": number} for number in reversed(range(12))]
        for store in stores:
            await store.close()

    asyncio.run(work())


WRITER = """
import asyncio, sys
from pathlib import Path
from minimax_m1.serve.store import Store

async def main(name):
    store = Store(Path(sys.argv[1]))
    for n in range(int(sys.argv[3])):
        await store.put("file", f"{name}-{n}", {"n": n, "pad": "x" * 2000})
        print(n, flush=True)
    await store.close()

asyncio.run(main(sys.argv[2]))
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_servers_that_start_at_once_share_a_file_and_one_may_be_killed(path: Path) -> None:
    writers = [start_writer(path, name, 60) for name in "abc"]
    victim = start_writer(path, "victim", 100_000)
    assert victim.stdout is not None
    told = [int(victim.stdout.readline()) for _ in range(20)]
    os.kill(victim.pid, signal.SIGKILL)
    for writer in writers:
        assert writer.communicate(timeout=60)[0].split()[-1] == "59"
        assert writer.returncode == 0
    told += [int(line) for line in victim.communicate(timeout=60)[0].split()]

    async def work(store: Store) -> tuple[int, list[dict[str, Any] | None]]:
        whole = len(await store.list("file", limit=10**6))
        return whole, [await store.get("file", f"victim-{n}") for n in told]

    whole, kept = using(path, work)
    assert None not in kept, "what was told as written is there"
    assert 180 + len(told) <= whole <= 180 + len(told) + 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_file_of_a_newer_version_is_refused_in_one_sentence(path: Path) -> None:
    using(path, lambda store: store.put("file", "a", {}))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(DataError, match=f"server.db has version 2, but this server reads versions up to {VERSION}"):
        Store(path)


def test_a_damaged_file_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, " * 500)
    with pytest.raises(DataError, match=r"server\.db is damaged: file is not a database"):
        Store(path)


def test_damage_that_shows_later_is_named_too(path: Path) -> None:
    async def fill(store: Store) -> None:
        for number in range(100):
            await store.put("file", f"{number}", {"pad": "x" * 3000})

    using(path, fill)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(DataError, match=r"server\.db is damaged"):
        using(path, lambda store: store.list("file", limit=1000))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, where a folder should be")
    with pytest.raises(DataError, match=r"server\.db cannot be used"):
        Store(tmp_path / "home" / "server.db")


def test_the_event_loop_goes_on_while_another_server_writes(path: Path) -> None:
    async def work(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.put("file", "a", {}))
        start = time.monotonic()
        while time.monotonic() - start < 0.2:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            assert time.monotonic() - before < 0.15
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        await waiting

    using(path, work)
