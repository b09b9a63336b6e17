"""The engine's thread, without a server."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from minimax_m1.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.errors import RequestError, ServerBusy
from minimax_m1.serve.bridge import Bridge, Loaded, Status
from minimax_m1.text.guide import GuideMaker
from minimax_m1.wire.errors import Fault


def bridge_over(engine: Any, tokenizer: Any) -> Bridge:
    guides = GuideMaker(tokenizer, tokenizer.vocab_size)
    bridge = Bridge(lambda: Loaded(engine=engine, tokenizer=tokenizer, guides=guides, defaults=SamplingParams()))
    bridge.start()
    while bridge.status is Status.LOADING:
        time.sleep(0.001)
    return bridge


def request(name: str, prompt: tuple[int, ...] = (1, 2), most: int = 100) -> Request:
    return Request(id=name, prompt=prompt, params=SamplingParams(max_tokens=most))


def engine(**settings: Any) -> ScriptedEngine:
    return ScriptedEngine({(1, 2): [5, 6, 7], (3,): [8] * 90}, vocab_size=10, **settings)


async def ids(bridge: Bridge, asked: Request) -> list[int]:
    async with bridge.events(asked) as events:
        return [event.token_id async for event in events if event.token_id is not None]


def test_many_requests_each_get_their_own_events(tokenizer: Any) -> None:
    bridge = bridge_over(engine(), tokenizer)

    async def all_of_them() -> list[list[int]]:
        asked = [request(str(i), (3,) if i % 2 else (1, 2), 10) for i in range(40)]
        return await asyncio.gather(*(ids(bridge, each) for each in asked))

    assert asyncio.run(all_of_them()) == [[5, 6, 7], [8] * 10] * 20
    bridge.close()


def test_refusals_are_raised_on_entering(tokenizer: Any) -> None:
    bridge = bridge_over(engine(max_queue=0), tokenizer)
    with pytest.raises(ServerBusy):
        asyncio.run(ids(bridge, request("a")))
    bridge.close()
    bridge = bridge_over(engine(), tokenizer)
    with pytest.raises(RequestError, match="empty"):
        asyncio.run(ids(bridge, request("a", ())))
    bridge.close()


def test_leaving_cancels(tokenizer: Any) -> None:
    held = engine()
    bridge = bridge_over(held, tokenizer)

    async def leave_early() -> None:
        for name in ("a", "b", "c"):
            async with bridge.events(request(name, (3,))) as events:
                async for event in events:
                    assert event.token_id == 8
                    break

    asyncio.run(leave_early())
    while held.busy:
        time.sleep(0.001)
    bridge.close()


def test_a_step_that_raises_ends_what_is_open_and_nothing_else(tokenizer: Any) -> None:
    class Breaking(ScriptedEngine):
        broken = True

        def step(self) -> list[TokenEvent]:
            if self.broken:
                self.broken = False
                raise OSError("the disk is gone")
            return super().step()

    bridge = bridge_over(Breaking({(1, 2): [5]}, vocab_size=10), tokenizer)
    with pytest.raises(RuntimeError, match="the engine failed"):
        asyncio.run(ids(bridge, request("a")))
    assert asyncio.run(ids(bridge, request("b"))) == [5]
    bridge.close()


def test_an_event_loop_that_is_gone_frees_the_engine(tokenizer: Any) -> None:
    held = ScriptedEngine({(3,): [8] * 3000}, vocab_size=10)
    bridge = bridge_over(held, tokenizer)
    loop = asyncio.new_event_loop()
    context = bridge.events(request("a", (3,), 3000))
    loop.run_until_complete(context.__aenter__())
    loop.close()
    while held.busy:
        time.sleep(0.001)
    assert asyncio.run(ids(bridge, request("b", (3,), 2))) == [8, 8]
    bridge.close()
    with pytest.raises(StopIteration):  # without its loop the context is left by hand
        context.gen.aclose().send(None)  # type: ignore[attr-defined]


def test_closing_ends_open_requests_and_takes_no_more(tokenizer: Any) -> None:
    class Endless(ScriptedEngine):
        def step(self) -> list[TokenEvent]:
            time.sleep(0.001)
            return super().step()

    bridge = bridge_over(Endless({(3,): [8] * 4000}, vocab_size=10), tokenizer)
    threading.Timer(0.05, bridge.close).start()
    with pytest.raises(Fault, match="shutting down") as caught:
        asyncio.run(ids(bridge, request("a", (3,), 4000)))
    assert caught.value.status == 503
    with pytest.raises(Fault, match="the model is closed"):
        asyncio.run(ids(bridge, request("b")))


def test_an_abort_of_the_engine_s_own_is_told(tokenizer: Any) -> None:
    bridge = bridge_over(engine(), tokenizer)

    async def last() -> TokenEvent:
        async with bridge.events(request("a", (9, 9))) as events:
            return [event async for event in events][-1]

    event = asyncio.run(last())
    assert event.finish is FinishReason.ABORT and event.error is not None and "the script failed" in event.error
    bridge.close()
