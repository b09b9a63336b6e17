"""Coroutines over one LLM: whole replies, streams, cancelled tasks, and sync calls beside them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError
from minimax_m1.llm import LLM, RequestOutput

GREEDY = SamplingParams(temperature=0, max_tokens=12)
LONG = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)


def tokens(result: RequestOutput) -> list[int]:
    return result.outputs[0].token_ids


def test_many_coroutines_get_what_they_would_get_alone(llm: LLM) -> None:
    prompts = ["the", "old farmer", "river river", "walked to", "a", "b"]
    alone = [tokens(llm.generate(prompt, GREEDY)[0]) for prompt in prompts]

    async def all_of_them() -> list[list[RequestOutput]]:
        return await asyncio.gather(*(llm.agenerate(prompt, GREEDY) for prompt in prompts))

    assert [tokens(result) for [result] in asyncio.run(all_of_them())] == alone
    several = asyncio.run(llm.agenerate(prompts, SamplingParams(n=2, temperature=0, max_tokens=12)))
    assert [[reply.token_ids for reply in result.outputs] for result in several] == [[one, one] for one in alone]


def test_achat_is_chat(llm: LLM) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    [result] = asyncio.run(llm.achat(talk, GREEDY))
    [other] = llm.chat(talk, GREEDY)
    assert (result.prompt, tokens(result)) == (other.prompt, tokens(other))


def test_a_stream_is_the_reply_in_pieces(llm: LLM) -> None:
    async def stream() -> list[tuple[str, int | None]]:
        return [(text, event.token_id) async for text, event in llm.astream("the river", GREEDY)]

    heard = asyncio.run(stream())
    [reply] = llm.generate("the river", GREEDY)[0].outputs
    assert "".join(text for text, _ in heard) == reply.text
    assert [token for _, token in heard if token is not None] == reply.token_ids


def test_streams_that_are_left_and_tasks_that_are_cancelled_leave_nothing(llm: LLM) -> None:
    async def leave() -> None:
        async with aclosing(llm.astream("the", LONG)) as stream:
            async for _, event in stream:
                if event.token_id is not None:
                    break
        task = asyncio.create_task(llm.agenerate(["old", "river"], LONG))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(tokens((await llm.agenerate("the", GREEDY))[0])) == 12

    asyncio.run(leave())
    assert not llm._driver._open and not llm._driver.engine.busy


@pytest.mark.parametrize("prompt", ["", [10**6], [1] * 1024, {"text": "the"}])
def test_a_bad_prompt_is_told_and_harms_nobody(llm: LLM, prompt: Any) -> None:
    async def both() -> list[Any]:
        bad = llm.agenerate(["the", prompt], GREEDY)
        return await asyncio.gather(bad, llm.agenerate("the", GREEDY), return_exceptions=True)

    error, [good] = asyncio.run(both())
    assert isinstance(error, RequestError)
    assert len(tokens(good)) == 12


def test_threads_and_coroutines_share_it(llm: LLM) -> None:
    alone = tokens(llm.generate("the river", GREEDY)[0])
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.extend(tokens(r) for r in llm.generate(["the river"] * 3, GREEDY)))
        for _ in range(3)
    ]
    for each in threads:
        each.start()

    async def some() -> None:
        results = await asyncio.gather(*(llm.agenerate("the river", GREEDY) for _ in range(5)))
        found.extend(tokens(result) for [result] in results)
        found.append(tokens(llm.generate("the river", GREEDY)[0]))  # a sync call where coroutines live

    asyncio.run(some())
    for each in threads:
        each.join(20)
    assert found == [alone] * 15


def test_what_the_engine_gives_up_is_told(script: Any) -> None:
    llm: LLM = script("old river")

    async def hear() -> list[str]:
        return [text async for text, _ in llm.astream("the", SamplingParams(max_tokens=99))]

    assert "".join(asyncio.run(hear())) == "old river"

    def fail() -> Any:
        raise ZeroDivisionError

    llm._driver.engine.step = fail  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="the engine failed: ZeroDivisionError"):
        asyncio.run(hear())
