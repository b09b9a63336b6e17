"""The official `openai` client against nano: responses, whole, streamed, stored, continued, cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

SUM = "What is 17 + 25?"
WEATHER = "What is the weather in Rome for 3 days?"


class GetWeather(BaseModel):
    """Get the weather."""

    city: Literal["Paris", "Rome"]
    days: int


class Total(BaseModel):
    total: int
    even: bool


TOOL: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")["function"]
FLAT: Any = {"type": "function", "strict": True, **{name: TOOL[name] for name in ("name", "description", "parameters")}}


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_response(client: OpenAI) -> None:
    reply = client.responses.create(model="nano", input=SUM, temperature=0, instructions="Be brief.")
    assert (reply.output_text, reply.status, reply.object, reply.model) == ("42", "completed", "response", "nano")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert 0 < reply.usage.output_tokens_details.reasoning_tokens < reply.usage.output_tokens
    assert [item.type for item in reply.output] == ["reasoning", "message"]


def test_a_conversation_goes_on_by_id(client: OpenAI) -> None:
    first = client.responses.create(model="nano", input=SUM, temperature=0)
    more = client.responses.create(model="nano", input="What is 20 + 30?", previous_response_id=first.id, temperature=0)
    assert more.previous_response_id == first.id and more.output_text == "50"
    assert more.usage is not None and first.usage is not None
    assert more.usage.input_tokens > first.usage.input_tokens + 5
    assert client.responses.retrieve(more.id).output_text == "50"
    assert [item.type for item in client.responses.input_items.list(more.id)] == ["message"]


def test_items_in_and_out(client: OpenAI) -> None:
    turns: Any = [{"role": "user", "content": [{"type": "input_text", "text": SUM}]}]
    first = client.responses.create(model="nano", input=turns, temperature=0, store=False)
    turns += [item.model_dump(exclude_none=True) for item in first.output]
    turns += [{"role": "user", "content": "What is 20 + 30?"}]
    assert client.responses.create(model="nano", input=turns, temperature=0).output_text == "50"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)  # it was not to be stored


def test_a_stream_s_events_come_in_order(client: OpenAI) -> None:
    with client.responses.stream(model="nano", input=SUM, temperature=0) as stream:
        events = list(stream)
        reply = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert {"response.output_item.added", "response.output_text.delta", "response.output_text.done"} <= set(kinds)
    assert reply.output_text == "42"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "get_weather"}], ids=str)
def test_a_tool_is_called_and_its_result_is_taken(client: OpenAI, choice: Any) -> None:
    asked: Any = {"model": "nano", "tools": [FLAT], "temperature": 0}
    reply = client.responses.create(input=WEATHER, tool_choice=choice, **asked)
    [call] = [item for item in reply.output if item.type == "function_call"]
    assert GetWeather.model_validate_json(call.arguments) == GetWeather(city="Rome", days=3)
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}]
    assert client.responses.create(input=result, previous_response_id=reply.id, **asked).output_text


def test_a_call_streams_piece_by_piece(client: OpenAI) -> None:
    with client.responses.stream(
        model="nano", input=WEATHER, tools=[FLAT], tool_choice="required", temperature=0
    ) as stream:
        events = list(stream)
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    [done] = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert len(pieces) > 2 and "".join(pieces) == done
    assert GetWeather.model_validate_json(done) == GetWeather(city="Rome", days=3)


def test_parse_gives_a_model(client: OpenAI) -> None:
    reply = client.responses.parse(model="nano", input=SUM, text_format=Total, temperature=0, max_output_tokens=300)
    assert isinstance(reply.output_parsed, Total)


def test_a_cut_answer_says_why(client: OpenAI) -> None:
    reply = client.responses.create(model="nano", input=SUM, max_output_tokens=2, temperature=0)
    assert reply.status == "incomplete" and reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"


def test_work_in_the_background_is_asked_after_and_cancelled(client: OpenAI) -> None:
    reply = client.responses.create(model="nano", input=SUM, temperature=0, background=True)
    assert reply.status in ("queued", "in_progress", "completed")
    assert until_over(client, reply.id).output_text == "42"
    endless = client.responses.create(
        model="nano", input=SUM, temperature=1, background=True, max_output_tokens=8000,
        extra_body={"ignore_eos": True, "min_tokens": 7000},
    )  # fmt: skip
    assert client.responses.cancel(endless.id).status == "cancelled"
    assert until_over(client, endless.id).status == "cancelled"


def until_over(client: OpenAI, id: str) -> Any:
    end = time.monotonic() + 30
    while (reply := client.responses.retrieve(id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return reply


def test_a_response_can_be_deleted(client: OpenAI) -> None:
    reply = client.responses.create(model="nano", input=SUM, temperature=0)
    client.responses.delete(reply.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)


def test_tokens_are_counted_without_an_answer(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="nano", input=SUM)
    reply = client.responses.create(model="nano", input=SUM, max_output_tokens=1)
    assert reply.usage is not None and counted.input_tokens == reply.usage.input_tokens


def test_each_refusal_has_its_class(client: OpenAI) -> None:
    for fields in ({"temperature": -1}, {"max_output_tokens": 0}, {"tools": [{"type": "web_search"}]}, {"input": []}):
        asked: Any = {"input": SUM, **fields}
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="nano", **asked)
    for asked in ({"model": "gpt-4o"}, {"model": "nano", "previous_response_id": "resp_nothing"}):
        with pytest.raises(openai.NotFoundError):
            client.responses.create(input=SUM, **asked)


def test_coroutines(url: str) -> None:
    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            async with client.responses.stream(model="nano", input=SUM, temperature=0) as stream:
                text = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            assert "".join(text) == "42"

    asyncio.run(ask())
