"""Chat completions, asked for by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_whole_answer(client: openai.OpenAI, tokenizer: Any) -> None:
    reply = client.chat.completions.create(model="nano", messages=user("2 + 2"))
    [choice] = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("4", "stop")
    extra = choice.message.model_extra
    assert extra is not None and extra["reasoning_content"] == extra["reasoning"] == "2+2=4 4"
    assert choice.message.tool_calls is None
    usage = reply.usage
    assert usage is not None and usage.completion_tokens_details is not None and usage.prompt_tokens_details is not None
    assert usage.completion_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n</think>\n\n4")) + 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n"))
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_streamed_answer_with_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="nano", messages=user("2 + 2"))
    stream = client.chat.completions.create(
        model="nano", messages=user("2 + 2"), stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "4"
    thought = "".join((chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks)
    assert thought == "2+2=4 4"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="nano", messages=user("snow"), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is ❄ and 雪, 🎿!"


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client: openai.OpenAI, stream: bool) -> None:
    messages = user("twice")
    calls: list[Any]
    if stream:
        chunks = list(client.chat.completions.create(model="nano", messages=messages, tools=TOOLS, stream=True))
        calls = []
        for part in (part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []):
            if part.index == len(calls):
                calls.append(part)
            else:  # the arguments follow piece by piece
                assert part.id is None and part.index == len(calls) - 1
                calls[-1].function.arguments += part.function.arguments
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        [choice] = client.chat.completions.create(model="nano", messages=messages, tools=TOOLS).choices
        calls = list(choice.message.tool_calls or [])
        assert choice.finish_reason == "tool_calls"
        content = choice.message.content or ""
    assert content == "Well:"
    assert all(call.type == "function" and call.id.startswith("call_") for call in calls)
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("add", {"a": 2, "b": 2})
    ] * 2


def test_tool_calls_alone_leave_the_content_null(client: openai.OpenAI) -> None:
    [choice] = client.chat.completions.create(model="nano", messages=user("call"), tools=TOOLS).choices
    assert choice.message.content is None


def test_one_call_where_parallel_ones_are_not_wanted(client: openai.OpenAI) -> None:
    free: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "not": {}}}}]
    [choice] = client.chat.completions.create(
        model="nano", messages=user("twice"), tools=free, parallel_tool_calls=False
    ).choices
    assert len(choice.message.tool_calls or []) == 1


def test_tools_not_to_be_used_are_not_shown(client: openai.OpenAI) -> None:
    without = client.chat.completions.create(model="nano", messages=user("hello"))
    unused = client.chat.completions.create(model="nano", messages=user("hello"), tools=TOOLS, tool_choice="none")
    assert unused.usage == without.usage


def test_a_tool_loop_goes_round(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="nano", messages=user("call"), tools=TOOLS).choices[0].message
    [call] = first.tool_calls or []
    messages = [*user("call"), first, {"role": "tool", "tool_call_id": call.id, "content": "4"}, *user("hello")]
    reply = client.chat.completions.create(model="nano", messages=messages, tools=TOOLS)
    assert reply.choices[0].message.content == "Hello, how are you? I am fine."


def test_several_answers(client: openai.OpenAI, served: Any) -> None:
    reply = client.chat.completions.create(model="nano", messages=user("hello"), n=3, seed=5, temperature=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [request.params.seed for request in served.engine.requests[-3:]] == [5, 6, 7]
    one = client.chat.completions.create(model="nano", messages=user("hello"))
    assert reply.usage is not None and one.usage is not None
    assert reply.usage.prompt_tokens == one.usage.prompt_tokens
    assert reply.usage.completion_tokens == 3 * one.usage.completion_tokens
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="nano", messages=user("hello"), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["Hello, how are you? I am fine."] * 2


def test_sampling_fields_and_limits(client: openai.OpenAI, served: Any) -> None:
    reply = client.chat.completions.create(
        model="nano",
        messages=user("count"),
        max_completion_tokens=4,
        top_p=0.9,
        temperature=0.7,
        stop=["never"],
        extra_body={"top_k": 5, "min_p": 0.1, "expert_threshold": 0.5},
    )
    params = served.engine.requests[-1].params
    assert (params.top_p, params.temperature, params.top_k, params.min_p) == (0.9, 0.7, 5, 0.1)
    assert (params.expert_threshold, params.max_tokens) == (0.5, 4)
    assert reply.choices[0].finish_reason == "length"
    client.chat.completions.create(model="nano", messages=user("hello"))
    assert served.engine.requests[-1].params.max_tokens == 6000  # the model's own


def test_stop_strings_are_cut(client: openai.OpenAI) -> None:
    for stop in ("how", ["are", "how"]):
        [choice] = client.chat.completions.create(model="nano", messages=user("hello"), stop=stop).choices
        assert (choice.message.content, choice.finish_reason) == ("Hello, ", "stop")


def test_errors_are_the_client_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=user("hello"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="nano", messages=user("hello"), temperature=-1)
    assert bad.value.param == "temperature" and bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="nano", messages=user("hello " * 9000))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="is not supported"):
        client.chat.completions.create(model="nano", messages=user("hello"), modalities=["text", "audio"])
    with pytest.raises(openai.BadRequestError, match="max_tokens 1000000000 exceeds the context window of 8192"):
        client.chat.completions.create(model="nano", messages=user("hello"), max_tokens=10**9)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="nano", messages=user("boom"))


def test_a_failing_engine_ends_a_stream_with_an_error(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="nano", messages=user("boom"), stream=True)
    with pytest.raises(openai.APIError, match="the server failed"):
        list(stream)
    assert client.chat.completions.create(model="nano", messages=user("2 + 2")).choices[0].message.content == "4"


def test_pings_do_not_disturb_the_client(slow: Any) -> None:
    with openai.OpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0, timeout=20) as patient:
        stream = patient.chat.completions.create(model="nano", messages=user("2 + 2"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "4"


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == "nano" and model.model_extra == {"max_model_len": 8192}
    assert client.models.retrieve("nano") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


def test_a_loop_is_a_length_and_penalties_reach_the_engine(strict: Any) -> None:
    with openai.OpenAI(base_url=f"{strict.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="nano", messages=user("count"), frequency_penalty=0.5, max_tokens=500
        )
        stream = client.chat.completions.create(model="nano", messages=user("count"), stream=True, max_tokens=500)
        ends = [chunk.choices[0].finish_reason for chunk in stream]
    assert answer.choices[0].finish_reason == ends[-1] == "length"
    assert answer.usage is not None and answer.usage.completion_tokens < 200
    assert strict.engine.requests[0].params.frequency_penalty == 0.5
