"""One engine for many callers: threads and coroutines, refusals, failures, and leaving early."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from minimax_m1.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.errors import RequestError
from minimax_m1.llm.driver import Driver
from minimax_m1.llm.job import Job
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


class Watched(ScriptedEngine):
    """Says ids 1, 2, 3... without end; a step takes `pause` seconds and no two may overlap."""

    def __init__(self, vocab_size: int, *, pause: float = 0.0) -> None:
        super().__init__(lambda prompt: [1 + n % 200 for n in range(3000)], vocab_size=vocab_size)
        self.pause = pause
        self.steps = 0
        self.cancelled: list[str] = []
        self.broken = False
        self._inside = 0

    def step(self) -> list[TokenEvent]:
        self._inside += 1
        try:
            assert self._inside == 1, "two threads are at the engine"
            time.sleep(self.pause)
            self.steps += 1
            if self.broken:
                raise ZeroDivisionError("broken")
            return super().step()
        finally:
            self._inside -= 1

    def cancel(self, request_id: str) -> None:
        assert not self._inside, "cancelled in the middle of a step"
        super().cancel(request_id)
        self.cancelled.append(request_id)


@pytest.fixture
def job(words: MiniMaxM1Tokenizer) -> Callable[..., Job]:
    def make(name: str, tokens: int = 5, prompt: Sequence[int] = (1, 2), **more: Any) -> Job:
        return Job(Request(id=name, prompt=prompt, params=SamplingParams(max_tokens=tokens), **more), words)

    return make


@pytest.fixture
def engine(words: MiniMaxM1Tokenizer) -> Watched:
    return Watched(words.vocab_size)


def idle(driver: Driver) -> bool:
    return not (driver._open or driver._orders or driver._elsewhere or driver._holder)


def until(said: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not said():
        assert time.monotonic() < limit
        time.sleep(0.001)


async def count(driver: Driver, jobs: Sequence[Job]) -> int:
    """The tokens of the jobs, followed to their end."""
    async with aclosing(driver.follow_async(jobs)) as told:
        return sum([event.token_id is not None async for _, _, event in told])


def test_jobs_run_together_and_end(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    told = list(driver.follow([job("a", 3), job("b", 5)]))
    assert [each.request.id for each, _, event in told if event.finish] == ["a", "b"]
    assert engine.steps == 5
    assert list(driver.follow([])) == []
    assert idle(driver)


def test_one_refusal_and_none_of_the_call_has_run(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    with pytest.raises(RequestError, match="the prompt is empty"):
        list(driver.follow([job("a"), job("b", prompt=())]))
    with pytest.raises(RequestError, match="the prompt is empty"):
        asyncio.run(count(driver, [job("a"), job("b", prompt=())]))
    assert engine.steps == 0 and engine.capacity == 1024
    until(lambda: idle(driver) and driver._worker is None)
    heard: list[Any] = []
    driver._submit([job("a"), job("b", prompt=())], heard.append, elsewhere=False)
    assert isinstance(heard[0], RequestError) and engine.capacity == 1024  # freed before anybody can step


def test_whoever_leaves_frees_the_request_and_nobody_else_s(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    one, other = driver.follow([job("a", 100)]), driver.follow([job("b", 4)])
    next(one), next(other)
    one.close()
    assert engine.cancelled == ["a"] and engine.capacity == 1024 - 1
    assert len(list(other)) == 3
    assert idle(driver)


def test_coroutines_share_the_steps(engine: Watched, job: Any) -> None:
    driver = Driver(engine)

    async def many() -> list[int]:
        return await asyncio.gather(*(count(driver, [job(f"{n}a", 20), job(f"{n}b", 30)]) for n in range(40)))

    engine.pause = 0.002  # long enough for all to come in while the first steps run
    assert asyncio.run(many()) == [50] * 40
    assert engine.steps < 120
    until(lambda: idle(driver) and driver._worker is None)


def test_a_cancelled_task_frees_its_request_without_waiting_for_the_step(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    engine.pause = 0.2

    async def run() -> float:
        task = asyncio.create_task(count(driver, [job("a", 1000)]))
        other = asyncio.create_task(count(driver, [job("b", 2)]))
        await asyncio.sleep(0.05)
        task.cancel()
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        waited = time.monotonic() - begin
        assert await other == 2
        return waited

    assert asyncio.run(run()) < 0.1
    assert "a" in engine.cancelled and engine.steps <= 4
    until(lambda: idle(driver) and driver._worker is None)


def test_threads_and_coroutines_take_turns_and_nobody_starves(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    engine.pause = 0.0005
    ends: dict[str, float] = {}

    def thread(name: str) -> None:
        assert sum(event.token_id is not None for _, _, event in driver.follow([job(name, 40)])) == 40
        ends[name] = time.monotonic()

    threads = [threading.Thread(target=thread, args=(f"t{n}",)) for n in range(4)]
    for each in threads:
        each.start()

    async def run() -> None:
        assert sum(await asyncio.gather(*(count(driver, [job(f"c{n}", 800)]) for n in range(4)))) == 3200
        ends["coroutines"] = time.monotonic()

    asyncio.run(run())
    for each in threads:
        each.join(10)
    assert len(ends) == 5 and max(ends, key=lambda name: ends[name]) == "coroutines"
    until(lambda: idle(driver) and driver._worker is None)


def test_an_engine_that_fails_ends_what_is_open_and_goes_on(
    engine: Watched, job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(engine)
    paused = driver.follow([job("a", 100)])
    next(paused)
    engine.broken = True
    [(_, _, end)] = driver.follow([job("b")])
    assert (end.finish, end.error) == (FinishReason.ABORT, "the engine failed: ZeroDivisionError: broken")
    assert [event.finish for _, _, event in paused] == [FinishReason.ABORT]
    assert "the engine failed" in caplog.text and engine.capacity == 1024
    engine.broken = False
    assert len(list(driver.follow([job("c")]))) == 5
    assert idle(driver)


def test_an_order_that_fails_does_not_keep_the_engine(
    engine: Watched, job: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(engine)

    def cancel(request_id: str) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(engine, "cancel", cancel)
        next(told := driver.follow([job("a", 100)]))
        told.close()
    assert "could not submit or cancel" in caplog.text
    assert len(list(driver.follow([job("b")]))) == 5


def test_what_the_engine_calls_cannot_call_it(engine: Watched, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(engine)
    said: list[str] = []

    def again() -> list[TokenEvent]:
        try:
            list(driver.follow([job("b")]))
        except RequestError as error:
            said.append(str(error))
        return ScriptedEngine.step(engine)

    monkeypatch.setattr(engine, "step", again)
    assert len(list(driver.follow([job("a", 1)]))) == 1
    assert said == ["what the engine calls, such as save, cannot call the engine"]
    assert idle(driver)


def test_a_loop_that_is_gone_leaves_no_request(engine: Watched, job: Any) -> None:
    driver = Driver(engine)
    loop = asyncio.new_event_loop()
    told = driver.follow_async([job("a", 3000)])
    engine.pause = 0.002

    async def first() -> None:
        await anext(told)

    loop.run_until_complete(first())
    loop.close()
    until(lambda: idle(driver) and driver._worker is None)
    assert engine.capacity == 1024 and engine.steps < 1000
