"""Bodies: what is taken, and the sentence about what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import read
from minimax_m1.wire.native import GenerateRequest
from minimax_m1.wire.openai import ChatRequest

USER = {"messages": [{"role": "user", "content": "hi"}]}


def native(**fields: Any) -> GenerateRequest:
    return read(GenerateRequest, json.dumps({"input": "hi", **fields}).encode())


def chat(**fields: Any) -> ChatRequest:
    return read(ChatRequest, json.dumps({**USER, **fields}).encode())


def test_the_published_example_is_taken() -> None:
    asked = read(
        GenerateRequest,
        b'{"input": "Analyze the following 500K token legal document and summarize the key obligations:",'
        b' "max_output_tokens": 1024, "context_window": 500000, "expert_threshold": 0.6}',
    )
    assert (asked.max_output_tokens, asked.context_window, asked.expert_threshold) == (1024, 500_000, 0.6)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"input": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"input": "a", "temperature": NaN}', "not JSON"),
        (b"[]", "must be a JSON object, got []"),
        (b'"hi"', "must be a JSON object"),
    ],
)
def test_bodies_that_are_no_json_object(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said.replace("[]", r"\[\]")):
        read(GenerateRequest, body)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1, got 0"),
        ({"max_output_tokens": -1}, "max_output_tokens", "greater than or equal to 1, got -1"),
        ({"max_output_tokens": "16"}, "max_output_tokens", 'valid integer, got "16"'),
        ({"max_output_tokens": True}, "max_output_tokens", "valid integer, got true"),
        ({"max_output_tokens": 1.5}, "max_output_tokens", "valid integer, got 1.5"),
        ({"expert_threshold": 0}, "expert_threshold", "greater than 0, got 0"),
        ({"expert_threshold": 1.01}, "expert_threshold", "less than or equal to 1, got 1.01"),
        ({"temperature": True}, "temperature", "valid number, got true"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": 5}, "input", "valid string, got 5"),
        ({"input": None}, "input", 'exactly one of "input" and "messages"'),
        ({"messages": USER["messages"]}, "input", 'exactly one of "input" and "messages"'),
        ({"max_tokens": 5}, "max_tokens", "unknown field 'max_tokens'"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"stop": 5}, "stop", "valid list, got 5"),
        ({"seed": 1e300}, "seed", None),
    ],
)
def test_native_fields_out_of_range(fields: dict[str, Any], param: str, said: str | None) -> None:
    if said is None:  # an integer, if a large one: its range is the sampler's business
        assert native(**fields).seed == int(1e300)
        return
    with pytest.raises(RequestError) as caught:
        native(**fields)
    assert caught.value.param == param
    assert said in str(caught.value)


def test_overflowing_numbers_are_refused_by_name() -> None:
    with pytest.raises(RequestError, match="temperature: input should be a finite number") as caught:
        read(GenerateRequest, b'{"input": "a", "temperature": 1e400}')
    assert caught.value.param == "temperature"


def test_json_has_one_kind_of_number() -> None:
    assert read(GenerateRequest, b'{"input": "a", "max_output_tokens": 1e9}').max_output_tokens == 10**9
    assert native(temperature=1).temperature == 1.0


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hi"}, "messages", "valid list"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "messages.0.role is required"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role", 'got "wizard"'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
            'got "image_url"',
        ),
        ({"n": 9}, "n", "less than or equal to 8, got 9"),
        ({"n": 0}, "n", "greater than or equal to 1, got 0"),
        ({"top_logprobs": 3}, "top_logprobs", "only allowed when logprobs is true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20, got 21"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type", 'got "xml"'),
        ({"tool_choice": "sometimes"}, "tool_choice", 'got "sometimes"'),
        ({"functions": [{"name": "add"}]}, "functions", "is not supported"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ; give one of them"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when stream is true"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "is required"),
        ({"temperature": "hot"}, "temperature", 'valid number, got "hot"'),
    ],
)
def test_chat_fields_out_of_range(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert said in str(caught.value)


def test_chat_takes_neutral_and_unknown_fields() -> None:
    asked = chat(
        logprobs=False,
        response_format={"type": "text"},
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        tool_choice="auto",
        store=True,
        user="me",
        metadata={"a": 1},
        n=None,
        stop="x",
    )
    assert asked.stop == ["x"]


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_model_or_a_refusal(body: bytes) -> None:
    for model in (GenerateRequest, ChatRequest):
        try:
            read(model, body)
        except RequestError as refusal:
            assert str(refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({*GenerateRequest.model_fields, *ChatRequest.model_fields})


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_fields_end_in_a_model_or_a_refusal(fields: dict[str, Any]) -> None:
    for model, base in ((GenerateRequest, {"input": "hi"}), (ChatRequest, USER)):
        try:
            read(model, json.dumps({**base, **fields}).encode())
        except RequestError as refusal:
            assert str(refusal)
