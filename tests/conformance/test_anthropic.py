"""The official `anthropic` client against nano: messages, streams, thoughts, tools, counts, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

SUM: Any = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Rome for 3 days?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Get the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
GREEDY = {"temperature": 0}  # which this client leaves to the caller
ROME = {"city": "Rome", "days": 3}


@pytest.fixture
def client(url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message(client: Anthropic) -> None:
    reply = client.messages.create(model="nano", max_tokens=200, messages=SUM, extra_body=GREEDY)
    assert (text_of(reply), reply.stop_reason, reply.role, reply.type) == ("42", "end_turn", "assistant", "message")
    assert reply.model == "nano" and reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0


def test_a_thought_is_a_block_of_its_own(client: Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    reply = client.messages.create(model="nano", max_tokens=2000, messages=SUM, thinking=thinking)
    assert [block.type for block in reply.content] == ["thinking", "text"]
    more: Any = [*SUM, {"role": "assistant", "content": reply.content}, {"role": "user", "content": "What is 20 + 30?"}]
    assert text_of(
        client.messages.create(model="nano", max_tokens=2000, messages=more, thinking=thinking, system="Be brief.")
    )
    none: Any = {"type": "disabled"}
    reply = client.messages.create(model="nano", max_tokens=200, messages=SUM, thinking=none)
    assert [block.type for block in reply.content] == ["text"]


def test_a_stream_joins_to_the_message(client: Anthropic) -> None:
    with client.messages.stream(model="nano", max_tokens=200, messages=SUM, extra_body=GREEDY) as stream:
        events = [event.type for event in stream]
        reply = stream.get_final_message()
    assert events[0] == "message_start" and events[-1] == "message_stop"
    assert events.count("content_block_start") == events.count("content_block_stop") >= 1
    assert text_of(reply) == "42" and reply.stop_reason == "end_turn" and reply.usage.output_tokens > 0
    with client.messages.stream(model="nano", max_tokens=200, messages=SUM, extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == "42"


@pytest.mark.parametrize(
    "choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=str
)
def test_a_tool_is_called_and_its_result_is_taken(client: Anthropic, choice: Any) -> None:
    asked: Any = {"model": "nano", "max_tokens": 300, "tools": [TOOL], "extra_body": GREEDY}
    reply = client.messages.create(messages=WEATHER, tool_choice=choice, **asked)
    assert reply.stop_reason == "tool_use"
    [call] = [block for block in reply.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", ROME)
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    turns: Any = [*WEATHER, {"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    assert text_of(client.messages.create(messages=turns, **asked))


def test_a_call_streams_piece_by_piece(client: Anthropic) -> None:
    with client.messages.stream(
        model="nano", max_tokens=300, messages=WEATHER, tools=[TOOL], tool_choice={"type": "any"}, extra_body=GREEDY
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        reply = stream.get_final_message()
    assert len(pieces) > 2
    assert [block.input for block in reply.content if block.type == "tool_use"] == [ROME]


def test_a_stop_sequence_and_a_limit_say_so(client: Anthropic) -> None:
    reply = client.messages.create(
        model="nano",
        max_tokens=200,
        messages=SUM,
        extra_body=GREEDY,
        stop_sequences=["2"],
        thinking={"type": "disabled"},
    )
    assert (reply.stop_reason, reply.stop_sequence) in {("stop_sequence", "2"), ("end_turn", None)}
    assert "2" not in text_of(reply)
    assert client.messages.create(model="nano", max_tokens=1, messages=SUM).stop_reason == "max_tokens"


def test_tokens_are_counted_without_an_answer(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="nano", messages=SUM)
    usage = client.messages.create(model="nano", max_tokens=1, messages=SUM).usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cached
    assert client.messages.count_tokens(model="nano", messages=SUM, tools=[TOOL]).input_tokens > counted.input_tokens


def test_marked_breakpoints_and_metadata_are_taken(client: Anthropic) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    reply = client.messages.create(
        model="nano",
        max_tokens=200,
        messages=SUM,
        system=system,
        metadata={"user_id": "me"},
        extra_body={"top_k": 5, "top_p": 0.9},
    )
    assert reply.usage.cache_read_input_tokens is not None


def test_each_refusal_has_its_class(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude", max_tokens=9, messages=SUM)
    body: Any = missing.value.body
    assert body["type"] == "error" and body["error"]["type"] == "not_found_error"
    for fields in (
        {"extra_body": {"temperature": -1}},
        {"max_tokens": -1},
        {"messages": []},
        {"messages": [{"role": "x", "content": "y"}]},
    ):
        asked: Any = {"model": "nano", "max_tokens": 9, "messages": SUM, **fields}
        with pytest.raises(anthropic.BadRequestError) as wrong:
            client.messages.create(**asked)
        body = wrong.value.body
        assert body["error"]["type"] == "invalid_request_error"
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.create(model="nano", max_tokens=9, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=0.005).messages.create(model="nano", max_tokens=4000, messages=SUM)


def test_coroutines(url: str) -> None:
    async def ask() -> None:
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            asked: Any = {"model": "nano", "max_tokens": 200, "messages": SUM, "extra_body": GREEDY}
            replies = await asyncio.gather(*(client.messages.create(**asked) for _ in range(4)))
            assert [text_of(reply) for reply in replies] == ["42"] * 4
            async with client.messages.stream(**asked) as stream:
                assert "".join([piece async for piece in stream.text_stream]) == "42"

    asyncio.run(ask())
