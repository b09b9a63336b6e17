"""Anthropic's dialect, asked for by its official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx2
import pytest
from pydantic import BaseModel

from minimax_m1.location import locate
from minimax_m1.serve.app import create_app
from minimax_m1.serve.loading import load

TOOLS: Any = [{"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}]
GREEDY = {"temperature": 0}  # newer clients leave these fields to their users
LONG = "The lake lay still in the morning. " * 40
INPUT = {"a": 2, "b": 2}


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=20) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def create(client: anthropic.Anthropic, text: str, **fields: Any) -> anthropic.types.Message:
    fields = {"max_tokens": 1000, "messages": user(text), **fields}
    reply = client.messages.create(model="nano", **fields)
    assert isinstance(reply, anthropic.types.Message)
    return reply


def events(client: anthropic.Anthropic, text: str, **fields: Any) -> list[Any]:
    return list(client.messages.create(model="nano", max_tokens=1000, messages=user(text), stream=True, **fields))


def blocks(message: Any) -> list[Any]:
    """The content without the ids of calls, which differ each time."""
    return [block.model_dump(exclude={"id"}, exclude_none=True) for block in message.content]


THOUGHT = {"type": "thinking", "thinking": "2+2=4 4", "signature": "unsigned"}


def test_a_whole_message(client: anthropic.Anthropic, tokenizer: Any) -> None:
    reply = create(client, "2 + 2")
    assert blocks(reply) == [THOUGHT, {"type": "text", "text": "4"}]
    assert (reply.role, reply.model, reply.stop_reason, reply.stop_sequence) == ("assistant", "nano", "end_turn", None)
    assert reply.id.startswith("msg_")
    usage = reply.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 0)
    assert usage.input_tokens == client.messages.count_tokens(model="nano", messages=user("2 + 2")).input_tokens > 0
    assert usage.output_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n</think>\n\n4")) + 1
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n"))


def test_a_stream_has_its_events_in_order(client: anthropic.Anthropic) -> None:
    told = events(client, "2 + 2")
    kinds = [event.type for event in told]
    short = [kind for i, kind in enumerate(kinds) if kinds[i - 1 : i] != [kind]]  # deltas in a row count once
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert short == ["message_start", *block, *block, "message_delta", "message_stop"]
    assert told[0].message.content == [] and told[0].message.stop_reason is None
    starts = [event for event in told if event.type == "content_block_start"]
    assert [(start.index, start.content_block.type) for start in starts] == [(0, "thinking"), (1, "text")]
    deltas = [(event.index, event.delta.type) for event in told if event.type == "content_block_delta"]
    assert deltas[-1] == (1, "text_delta") and deltas.count((0, "signature_delta")) == 1
    assert deltas.index((0, "signature_delta")) == deltas.index((1, "text_delta")) - 1


@pytest.mark.parametrize("asked", ["2 + 2", "snow", "call", "twice"])
def test_a_stream_comes_to_the_same_as_a_whole_message(client: anthropic.Anthropic, asked: str) -> None:
    whole = create(client, asked, tools=TOOLS)
    with client.messages.stream(model="nano", max_tokens=1000, messages=user(asked), tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    assert blocks(streamed) == blocks(whole)
    assert (streamed.stop_reason, streamed.usage) == (whole.stop_reason, whole.usage)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client: anthropic.Anthropic, stream: bool) -> None:
    if stream:
        told = events(client, "twice", tools=TOOLS)
        pieces: list[str] = ["", ""]
        counts = [0, 0]
        for event in told:
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                pieces[event.index - 2] += event.delta.partial_json
                counts[event.index - 2] += 1
        assert [json.loads(piece) for piece in pieces] == [INPUT, INPUT]
        assert min(counts) > 1  # arguments come as they are written
        calls = [event.content_block for event in told if event.type == "content_block_start"][2:]
        assert [call.input for call in calls] == [{}, {}]
        assert told[-2].delta.stop_reason == "tool_use"
    else:
        reply = create(client, "twice", tools=TOOLS)
        assert blocks(reply)[:2] == [
            {"type": "thinking", "thinking": "Both.", "signature": "unsigned"},
            {"type": "text", "text": "Well:"},
        ]
        calls = reply.content[2:]
        assert [call.input for call in calls] == [INPUT, INPUT]
        assert reply.stop_reason == "tool_use"
    assert [(call.type, call.name) for call in calls] == [("tool_use", "add")] * 2
    assert all(call.id.startswith("toolu_") for call in calls) and calls[0].id != calls[1].id


def test_calls_that_cannot_be_held_to_a_schema_come_whole(client: anthropic.Anthropic) -> None:
    free: Any = [{"name": "add", "input_schema": {"type": "object", "not": {}}}]
    told = events(client, "twice", tools=free)
    deltas = [event.delta for event in told if event.type == "content_block_delta"]
    assert [json.loads(delta.partial_json) for delta in deltas if delta.type == "input_json_delta"] == [INPUT, INPUT]
    one: Any = {"type": "auto", "disable_parallel_tool_use": True}
    whole = create(client, "twice", tools=free, tool_choice=one)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]


def test_tools_not_to_be_used_are_not_shown(client: anthropic.Anthropic) -> None:
    without = create(client, "hello").usage
    unused = create(client, "hello", tools=TOOLS, tool_choice={"type": "none"}).usage
    assert (unused, create(client, "hello", tools=TOOLS).usage.input_tokens > without.input_tokens) == (without, True)
    asked: Any = {"model": "nano", "messages": user("hello"), "tools": TOOLS}
    assert client.messages.count_tokens(tool_choice={"type": "none"}, **asked).input_tokens == without.input_tokens


def test_a_tool_loop_goes_round(client: anthropic.Anthropic, served: Any, tokenizer: Any) -> None:
    first = create(client, "twice", tools=TOOLS)
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "4"}
        for block in first.content
        if block.type == "tool_use"
    ]
    messages = [
        *user("twice"),
        first.to_param(),
        {"role": "user", "content": [*results, {"type": "text", "text": "hello"}]},
    ]
    assert blocks(create(client, "", tools=TOOLS, messages=messages))[0]["text"].startswith("Hello")
    prompt = str(tokenizer.decode(list(served.engine.requests[-1].prompt)))
    call = '{"name": "add", "arguments": {"a": 2, "b": 2}}'
    said = f"assistant\nWell:\n\n<tool_calls>\n{call}\n{call}\n</tool_calls>"
    assert said in prompt
    assert prompt.count("tool name: add\ntool result: 4\n") == 2


def test_stop_sequences_are_cut_and_named(client: anthropic.Anthropic) -> None:
    reply = create(client, "hello", stop_sequences=["are", "how"])
    assert blocks(reply) == [{"type": "text", "text": "Hello, "}]
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "how")
    delta = events(client, "hello", stop_sequences=["how"])[-2].delta
    assert (delta.stop_reason, delta.stop_sequence) == ("stop_sequence", "how")


def test_what_cut_a_message_is_told(client: anthropic.Anthropic, strict: Any) -> None:
    cut = create(client, "count", max_tokens=4)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 4)
    read = create(client, "hello", max_tokens=0)
    assert (read.stop_reason, read.content, read.usage.output_tokens) == ("max_tokens", [], 0)
    with anthropic.Anthropic(base_url=strict.url, api_key="none", max_retries=0) as other:
        loop = create(other, "count", max_tokens=5000)
    assert (loop.stop_reason, loop.usage.output_tokens < 5000) == ("max_tokens", True)


def test_a_call_that_was_cut_keeps_what_is_whole(client: anthropic.Anthropic, tokenizer: Any) -> None:
    written = len(tokenizer.encode('<tool_calls>\n{"name": "add", "arguments": {"a": 2, "b"'))
    whole = create(client, "call", tools=TOOLS, max_tokens=written)
    assert (whole.stop_reason, blocks(whole)) == (
        "max_tokens",
        [{"type": "tool_use", "name": "add", "input": {"a": 2}}],
    )
    with client.messages.stream(model="nano", max_tokens=written, messages=user("call"), tools=TOOLS) as stream:
        assert blocks(stream.get_final_message()) == blocks(whole)


def test_tokens_are_counted_as_they_are_read(client: anthropic.Anthropic) -> None:
    asked: Any = {
        "system": "Be brief.",
        "tools": [{**TOOLS[0], "strict": True, "cache_control": {"type": "ephemeral"}}],
        "messages": user("hello"),
    }
    count = client.messages.count_tokens(model="nano", **asked).input_tokens
    assert count == create(client, "", **asked).usage.input_tokens
    assert client.messages.count_tokens(model="nano", messages=user("a b " * 9000)).input_tokens > 8192


def test_settings_reach_the_engine(client: anthropic.Anthropic, served: Any) -> None:
    own = {"expert_threshold": 0.5, "seed": 3}
    create(client, "hello", extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5, **own})
    params = served.engine.requests[-1].params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.9, 5, 3)
    assert (params.expert_threshold, params.thinking_budget, params.max_tokens) == (0.5, None, 1000)
    for fields, budget in [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, 1024),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 8192 // 2 // 8),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "low"}}, 1024),
        ({"extra_body": {"thinking_budget": 7}}, 7),
    ]:
        create(client, "hello", **fields)
        assert served.engine.requests[-1].params.thinking_budget == budget


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_may_be_hidden(client: anthropic.Anthropic, stream: bool) -> None:
    asked: Any = {"max_tokens": 1000, "thinking": {"type": "adaptive", "display": "omitted"}}
    if stream:
        with client.messages.stream(model="nano", messages=user("2 + 2"), **asked) as events:
            reply: Any = events.get_final_message()
    else:
        reply = create(client, "2 + 2", **asked)
    assert blocks(reply) == [{**THOUGHT, "thinking": ""}, {"type": "text", "text": "4"}]


def test_the_beta_address_is_the_same(client: anthropic.Anthropic) -> None:
    reply = client.beta.messages.create(
        model="nano", max_tokens=1000, messages=user("2 + 2"), betas=["interleaved-thinking-2025-05-14"]
    )
    assert blocks(reply) == blocks(create(client, "2 + 2"))
    count = client.beta.messages.count_tokens(model="nano", messages=user("2 + 2"))
    assert count.input_tokens == reply.usage.input_tokens


def test_errors_are_the_client_s_own(client: anthropic.Anthropic) -> None:
    def kind(error: anthropic.APIStatusError) -> Any:
        assert isinstance(error.body, dict) and error.body["type"] == "error"
        return error.body["error"]["type"]

    with pytest.raises(anthropic.NotFoundError, match="no model 'claude'") as missing:
        client.messages.create(model="claude", max_tokens=5, messages=user("hello"))
    assert kind(missing.value) == "not_found_error"
    picture: Any = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
    with pytest.raises(anthropic.BadRequestError, match="type 'image' cannot be read") as bad:
        create(client, "", messages=[{"role": "user", "content": [picture]}])
    assert kind(bad.value) == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature must be between"):
        create(client, "hello", extra_body={"temperature": -1})
    with pytest.raises(anthropic.BadRequestError, match="leaves no room for an answer"):
        create(client, "hello " * 9000)
    with pytest.raises(anthropic.BadRequestError, match="tool_choice is required and there are no tools"):
        create(client, "hello", tool_choice={"type": "any"})
    with pytest.raises(anthropic.RequestTooLargeError) as large:
        create(client, "a" * 300_000)
    assert kind(large.value) == "request_too_large"
    with pytest.raises(anthropic.InternalServerError, match="its log says why") as failed:
        create(client, "boom")
    assert kind(failed.value) == "api_error"
    with pytest.raises(anthropic.NotFoundError, match="there is no context"):
        create(client, "hello", extra_body={"context_id": "none-such"})


def test_a_failing_engine_ends_a_stream_with_an_error(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="its log says why") as failed:
        events(client, "boom")
    assert isinstance(failed.value.body, dict) and failed.value.body["error"]["type"] == "api_error"
    assert blocks(create(client, "2 + 2"))[-1] == {"type": "text", "text": "4"}


def test_reading_a_long_input_is_told_by_pings(slow: Any) -> None:
    asked = {"model": "nano", "max_tokens": 9, "stream": True, "messages": user("a b c " * 300 + "2 + 2")}
    with httpx2.Client(base_url=slow.url, timeout=20, headers={"x-api-key": "k"}) as http:
        lines = http.post("/v1/messages", json=asked).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[0] == "message_start" and names[-1] == "message_stop" and names.count("ping") > 3
    assert ": ping" in lines  # and where nothing was new, a comment


@pytest.fixture(scope="module")
def nano(run_app: Any, tmp_path_factory: Any) -> Iterator[anthropic.Anthropic]:
    def loaded() -> Any:
        return load(locate("nano"), dtype="auto", device="cpu", max_model_len=1024)

    app = create_app(loaded, name="nano", home=tmp_path_factory.mktemp("home"))
    with run_app(app) as url, anthropic.Anthropic(base_url=url, api_key="none", timeout=60, max_retries=0) as client:
        while httpx2.get(f"{url}/health", timeout=60).status_code != 200:
            time.sleep(0.05)
        yield client


class Weather(BaseModel):
    """What an answer must be."""

    city: Literal["Oslo", "Bergen"]
    warm: bool


def test_an_answer_follows_a_schema(nano: anthropic.Anthropic) -> None:
    asked: Any = {"model": "nano", "max_tokens": 200, "messages": user("How is the weather?"), "extra_body": GREEDY}
    brief: Any = {"type": "enabled", "budget_tokens": 20}
    parsed = nano.messages.parse(output_format=Weather, thinking=brief, **asked)
    assert isinstance(parsed.parsed_output, Weather)
    assert (
        parsed.usage.output_tokens_details is not None and parsed.usage.output_tokens_details.thinking_tokens <= 24
    )  # with its tags


def test_a_forced_call_is_valid_and_streams(nano: anthropic.Anthropic) -> None:
    tool: Any = {"name": "weather", "strict": True, "input_schema": Weather.model_json_schema()}
    with nano.messages.stream(
        model="nano",
        max_tokens=200,
        messages=user("How is the weather?"),
        tools=[tool],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        thinking={"type": "disabled"},
        extra_body=GREEDY,
    ) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_message()
    [call] = reply.content
    assert call.type == "tool_use" and reply.stop_reason == "tool_use" and kinds.count("input_json") > 1
    Weather.model_validate(call.input)


def test_a_full_window_is_told(nano: anthropic.Anthropic) -> None:
    reply = create(nano, LONG, max_tokens=1000, extra_body={**GREEDY, "ignore_eos": True})
    assert reply.stop_reason == "model_context_window_exceeded"
    assert reply.usage.input_tokens + reply.usage.output_tokens == 1024


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_read_before_counts_as_cached(nano: anthropic.Anthropic, stream: bool) -> None:
    text = f"{'stream' if stream else 'whole'}: " + LONG
    asked: Any = {"model": "nano", "max_tokens": 3, "messages": user(text), "extra_body": GREEDY}
    first = nano.messages.create(**asked).usage
    assert first.cache_read_input_tokens == 0
    if stream:
        told = list(nano.messages.create(stream=True, **asked))
        usage: Any = told[0].message.usage
        assert told[-2].usage.cache_read_input_tokens == usage.cache_read_input_tokens
    else:
        usage = nano.messages.create(**asked).usage
    assert usage.cache_read_input_tokens > 0
    assert usage.input_tokens + usage.cache_read_input_tokens == first.input_tokens
