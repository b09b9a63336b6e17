"""The official `openai` client against nano: chats, streams, tools, forms, plain completions, models, errors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from pydantic import BaseModel

SUM: Any = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Rome for 3 days?"}]


class GetWeather(BaseModel):
    """Get the weather."""

    city: Literal["Paris", "Rome"]
    days: int


class Total(BaseModel):
    total: int
    even: bool


TOOL: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", messages=SUM, temperature=0)
    [choice] = reply.choices
    assert (choice.message.content, choice.finish_reason, choice.message.role) == ("42", "stop", "assistant")
    assert choice.message.model_extra is not None
    assert choice.message.model_extra["reasoning_content"] == choice.message.model_extra["reasoning"] != ""
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 0 < (reply.usage.completion_tokens_details.reasoning_tokens or 0) < reply.usage.completion_tokens
    assert (reply.object, reply.model) == ("chat.completion", "nano")


def test_every_setting_is_taken(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=SUM, n=3, seed=1, temperature=0.8, top_p=0.95, presence_penalty=0.1,
        frequency_penalty=0.1, stop=["never"], max_completion_tokens=60, logit_bias={"5": -1}, user="me",
        metadata={"a": "b"}, reasoning_effort="low", service_tier="auto", store=False,
        extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.01, "expert_threshold": 0.9, "priority": 1},
    )  # fmt: skip
    assert [choice.index for choice in reply.choices] == [0, 1, 2]


def test_a_seed_repeats_an_answer(client: OpenAI) -> None:
    texts = {
        client.chat.completions.create(
            model="nano", messages=SUM, seed=7, temperature=1.5, max_tokens=40
        ).choices[0].model_dump_json()
        for _ in range(2)
    }  # fmt: skip
    assert len(texts) == 1


def test_log_probabilities(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=SUM, temperature=0, logprobs=True, top_logprobs=3, reasoning_effort="none"
    )
    told = reply.choices[0].logprobs
    assert told is not None and told.content
    for token in told.content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert sorted((each.logprob for each in token.top_logprobs), reverse=True)[0] >= token.logprob
        assert token.bytes is None or bytes(token.bytes).decode("utf-8", "replace") == token.token


def test_a_stream_joins_to_the_answer(client: OpenAI) -> None:
    state: Any = ChatCompletionStreamState()
    usage = None
    with client.chat.completions.create(
        model="nano", messages=SUM, temperature=0, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        for chunk in chunks:
            state.handle_chunk(chunk)
            assert chunk.object == "chat.completion.chunk"
            usage = chunk.usage or usage
    reply = state.get_final_completion()
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("42", "stop")
    assert usage is not None and usage.total_tokens > 0


def test_the_stream_helper_tells_every_event(client: OpenAI) -> None:
    with client.chat.completions.stream(model="nano", messages=SUM, temperature=0) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert reply.choices[0].message.content == "42"


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}], ids=str
)
def test_a_tool_is_called_and_its_result_is_taken(client: OpenAI, choice: Any) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=WEATHER, tools=[TOOL], tool_choice=choice, temperature=0
    )
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls" and message.tool_calls
    [call] = message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather"
    assert GetWeather.model_validate_json(call.function.arguments) == GetWeather(city="Rome", days=3)
    turns: Any = [*WEATHER, message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    more = client.chat.completions.create(model="nano", messages=turns, tools=[TOOL], temperature=0)
    assert more.choices[0].message.content


def test_tools_can_be_forbidden(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", messages=WEATHER, tools=[TOOL], tool_choice="none")
    assert not reply.choices[0].message.tool_calls and reply.choices[0].finish_reason != "tool_calls"


def test_a_call_streams_piece_by_piece(client: OpenAI) -> None:
    pieces, done = [], []
    with client.chat.completions.stream(
        model="nano", messages=WEATHER, tools=[TOOL], tool_choice="required", temperature=0
    ) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.append(event.arguments_delta)
            elif event.type == "tool_calls.function.arguments.done":
                done.append(event.parsed_arguments)
    assert len(pieces) > 2
    assert GetWeather.model_validate_json("".join(pieces)) == GetWeather(city="Rome", days=3)
    assert done == [GetWeather(city="Rome", days=3)]


def test_parse_gives_a_model(client: OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="nano", messages=SUM, response_format=Total, temperature=0, max_tokens=300
    )
    assert isinstance(reply.choices[0].message.parsed, Total)


def test_parse_gives_a_call_s_arguments(client: OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="nano", messages=WEATHER, tools=[TOOL], tool_choice="required", temperature=0
    )
    assert reply.choices[0].message.tool_calls
    assert isinstance(reply.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather)


def test_parse_streams(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="nano", messages=SUM, response_format=Total, temperature=0, max_tokens=300
    ) as stream:
        parsed = [event.parsed for event in stream if event.type == "content.done"]
    assert len(parsed) == 1 and isinstance(parsed[0], Total)


def test_any_json_object(client: OpenAI) -> None:
    form: Any = {"type": "json_object"}
    reply = client.chat.completions.create(
        model="nano", messages=SUM, response_format=form, temperature=0, max_tokens=400
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)
    else:
        assert (reply.choices[0].message.content or "").startswith("{")


def test_a_cut_answer_says_so(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", messages=SUM, max_tokens=2, temperature=0)
    assert reply.choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="nano", messages=SUM, response_format=Total, max_tokens=2)


def test_plain_completions_with_echo(client: OpenAI) -> None:
    reply = client.completions.create(
        model="nano", prompt=["1 + 1 =", "2 + 2 ="], max_tokens=0, echo=True, logprobs=2, temperature=0
    )
    assert [choice.text for choice in reply.choices] == ["1 + 1 =", "2 + 2 ="]
    for choice in reply.choices:
        told = choice.logprobs
        assert told is not None and told.tokens and told.token_logprobs and told.text_offset
        assert told.token_logprobs[0] is None and all(each <= 0 for each in told.token_logprobs[1:])
        assert "".join(told.tokens) == choice.text and told.text_offset[0] == 0


def test_plain_completions_of_ids_and_in_a_stream(client: OpenAI) -> None:
    whole = client.completions.create(model="nano", prompt=[5, 6, 7], max_tokens=8, temperature=0)
    pieces = client.completions.create(model="nano", prompt=[5, 6, 7], max_tokens=8, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").object == "model"


def test_each_refusal_has_its_class(client: OpenAI) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-4o", messages=SUM)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    for fields, param in [
        ({"temperature": -1}, "temperature"),
        ({"n": 99}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "nothing"}}}, "tool_choice"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ]:
        asked: Any = {"messages": SUM, **fields}
        with pytest.raises(openai.BadRequestError) as wrong:
            ask(model="nano", **asked)
        assert wrong.value.param == param and wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        ask(model="nano", messages=[{"role": "user", "content": "1 " * 9000}])
    assert long.value.code == "context_length_exceeded"


def test_a_bad_schema_is_refused(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="nano", messages=SUM, response_format=form)


def test_a_timeout_and_a_server_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.01).completions.create(model="nano", prompt="1", max_tokens=4000, temperature=1)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(openai.APIConnectionError):
        client.with_options(base_url=f"http://127.0.0.1:{port}/v1").models.list()


def test_many_at_once_from_coroutines(url: str) -> None:
    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="nano", messages=SUM, temperature=0) for _ in range(8))
            )
            assert [reply.choices[0].message.content for reply in replies] == ["42"] * 8
            async with client.chat.completions.stream(model="nano", messages=SUM, temperature=0) as stream:
                text = [event.delta async for event in stream if event.type == "content.delta"]
            assert "".join(text) == "42"

    asyncio.run(ask())


def test_leaving_a_stream_leaves_the_server_well(client: OpenAI) -> None:
    for _ in range(5):
        with client.completions.create(model="nano", prompt="1", max_tokens=4000, stream=True) as chunks:
            next(iter(chunks))
    reply = client.chat.completions.create(model="nano", messages=SUM, temperature=0)
    assert reply.choices[0].message.content == "42"
