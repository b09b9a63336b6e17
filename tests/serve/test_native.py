"""The native endpoint, over HTTP."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from minimax_m1.wire.native import GenerateReply
from minimax_m1.wire.sse import Event, EventReader

PATH = "/v1/minimax-m1/generate"


def ask(served: Any, **body: Any) -> GenerateReply:
    with served.client() as client:
        answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return GenerateReply.model_validate_json(answer.content)


def refusal(served: Any, **body: Any) -> tuple[int, dict[str, Any]]:
    with served.client() as client:
        answer = client.post(PATH, json=body)
    return answer.status_code, answer.json()["error"]


def stream(served: Any, **body: Any) -> list[Event]:
    reader, events = EventReader(), []
    with served.client() as client, client.stream("POST", PATH, json={"stream": True, **body}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for piece in answer.iter_raw():
            events += reader.feed(piece)
    return events


def test_an_addition_with_its_thought_usage_and_routing(served: Any, tokenizer: Any) -> None:
    reply = ask(served, input="What is 2 + 2?", max_output_tokens=100)
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.model) == ("4", "2+2=4 4", "stop", "nano")
    prompt, made = reply.usage.input_tokens, reply.usage.output_tokens
    assert made == len(tokenizer.encode("<think>\n2+2=4 4\n</think>\n\n4")) + 1
    # <think> and all up to </think>, which is the first token after the thought
    assert reply.usage.reasoning_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n"))
    assert reply.usage.total_tokens == prompt + made
    assert reply.routing is not None
    assert reply.routing["tokens"] == prompt + made - 1
    assert reply.routing["layers"][0]["tokens_per_expert"] == [prompt + made - 1, 0]


def test_routing_off_and_the_full_array(served: Any) -> None:
    assert ask(served, input="hello", routing=False).routing is None
    reply = ask(served, input="hello", routing=False, routed_experts=True)
    assert reply.routing is not None
    array = np.load(io.BytesIO(base64.b64decode(reply.routing["routed_experts"])))
    assert array.shape == (reply.usage.total_tokens - 1, 1, 1)


def test_messages_system_and_tools(served: Any) -> None:
    tool = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "twice"}]
    reply = ask(served, messages=messages, tools=[tool])
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("Both.", "Well:", "tool_calls")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("add", '{"a": 2, "b": 2}')] * 2
    assert len({call.id for call in reply.tool_calls}) == 2


def test_stop_strings_and_length(served: Any) -> None:
    reply = ask(served, input="hello", stop=["you", "fine"])
    assert (reply.text, reply.finish_reason) == ("Hello, how are ", "stop")
    reply = ask(served, input="count", max_output_tokens=3)
    assert (reply.usage.output_tokens, reply.finish_reason) == (3, "length")


def test_an_answer_is_capped_by_what_the_input_leaves(served: Any) -> None:
    used = ask(served, input="count", max_output_tokens=1).usage.input_tokens
    reply = ask(served, input="count", context_window=used + 7, max_output_tokens=used + 7)
    assert (reply.usage.output_tokens, reply.finish_reason) == (7, "length")
    assert ask(served, input="count", context_window=used + 7).usage.output_tokens == 7  # the default fits any window
    status, error = refusal(served, input="count", context_window=used, max_output_tokens=1)
    assert (status, error["code"], error["type"]) == (400, "context_length_exceeded", "invalid_request_error")
    assert f"the input has {used} tokens" in error["message"] and f"window of {used} tokens" in error["message"]


def test_sampling_settings_reach_the_engine(served: Any) -> None:
    ask(served, input="hello", expert_threshold=0.6, temperature=0.5, top_p=0.9, top_k=7, seed=3, max_output_tokens=9)
    params = served.engine.requests[-1].params
    assert (params.expert_threshold, params.temperature, params.top_p, params.top_k) == (0.6, 0.5, 0.9, 7)
    assert (params.seed, params.max_tokens) == (3, 9)
    ask(served, input="hello")
    assert served.engine.requests[-1].params.temperature == 0.0  # the model's own
    assert served.engine.requests[-1].guide is None and served.engine.requests[-1].priority == 0
    penalties = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.5}
    ask(served, input="hello", min_p=0.25, priority=-3, **penalties)
    request = served.engine.requests[-1]
    assert (request.params.min_p, request.priority) == (0.25, -3)
    assert {name: getattr(request.params, name) for name in penalties} == penalties


def test_a_thinking_budget_becomes_a_guide(served: Any) -> None:
    assert ask(served, input="2 + 2", thinking_budget=100).text == "4"
    assert served.engine.requests[-1].guide is not None
    status, error = refusal(served, input="2 + 2", thinking_budget=3)  # the script thinks on, which no model could
    assert status == 500 and "came where the end of the thought was due" in error["message"]


def test_an_answer_in_a_loop_is_ended_and_says_so(strict: Any) -> None:
    reply = ask(strict, input="count", max_output_tokens=500)
    assert reply.finish_reason == "repetition" and 120 <= reply.usage.output_tokens < 200


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({}, "input", "exactly one of"),
        ({"input": "hello", "max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1, got 0"),
        ({"input": "hello", "max_output_tokens": -1}, "max_output_tokens", "greater than or equal to 1, got -1"),
        (
            {"input": "hello", "max_output_tokens": 1e9},
            "max_output_tokens",
            "1000000000 exceeds the context window of 8192",
        ),
        ({"input": "hello", "context_window": 9000}, "context_window", "9000 exceeds the limit of 8192 tokens"),
        ({"input": "hello", "temperature": -1}, "temperature", "temperature must be between 0 and 100, got -1"),
        ({"input": "hello", "top_p": 0}, "top_p", "top_p must be above 0"),
        ({"input": "hello", "seed": 2**70}, "seed", "seed must be"),
        ({"input": "hello", "min_p": 2}, "min_p", "min_p must be between 0 and 1, got 2"),
        ({"input": "hello", "repetition_penalty": 0}, "repetition_penalty", "above 0 and at most 100, got 0"),
        ({"input": "hello", "thinking_budget": -1}, "thinking_budget", "thinking_budget must be at least 0, got -1"),
        ({"input": "hello", "priority": 0.5}, "priority", "valid integer, got 0.5"),
        ({"input": "hello", "colour": "red"}, "colour", "unknown field 'colour'"),
    ],
)
def test_bad_fields_are_named(served: Any, body: dict[str, Any], param: str, said: str) -> None:
    status, error = refusal(served, **body)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert said in error["message"]


def test_a_prompt_longer_than_the_window_is_never_cut(served: Any) -> None:
    before = len(served.engine.requests)
    status, error = refusal(served, input="hello " * 9000, max_output_tokens=1)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert len(served.engine.requests) == before


def test_a_stream_tells_everything_once(served: Any) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    events = stream(served, input="twice " + "padding " * 200, tools=[tool])
    names = [event.name for event in events]
    assert names[0] == "progress" and names[-1] == "done" and names.count("done") == 1
    read = [json.loads(event.data)["processed"] for event in events if event.name == "progress"]
    assert len(read) > 3 and read == sorted(read)
    reply = GenerateReply.model_validate_json(events[-1].data)
    told = {
        kind: "".join(json.loads(event.data)["text"] for event in events if event.name == kind)
        for kind in ("text", "reasoning")
    }
    assert told == {"text": reply.text, "reasoning": reply.reasoning} == {"text": "Well:", "reasoning": "Both."}
    calls = [json.loads(event.data) for event in events if event.name == "tool_call"]
    assert [call.pop("index") for call in calls] == [0, 1]
    for more in (json.loads(event.data) for event in events if event.name == "tool_arguments"):
        calls[more["index"]]["arguments"] += more["text"]
    assert calls == [call.model_dump() for call in reply.tool_calls]
    assert reply.routing is not None and reply.usage.total_tokens > 0


def test_streamed_text_is_whole_characters(served: Any) -> None:
    texts = [json.loads(event.data)["text"] for event in stream(served, input="snow") if event.name == "text"]
    assert "".join(texts) == "It is ❄ and 雪, 🎿!"
    assert not any("\ufffd" in text for text in texts)


def test_a_failure_in_a_stream_is_an_error_event(served: Any) -> None:
    events = stream(served, input="boom")
    assert [event.name for event in events] == ["progress", "error"]
    assert json.loads(events[-1].data)["error"]["type"] == "server_error"


def test_pings_fill_the_silence(slow: Any) -> None:
    with slow.client() as client, client.stream("POST", PATH, json={"input": "2 + 2", "stream": True}) as answer:
        raw = b"".join(answer.iter_raw())
    assert raw.count(b": ping\n\n") > 5
    assert EventReader().feed(raw)[-1].name == "done"
