"""Anthropic's requests as the rest of the house takes them, and what they are refused for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minimax_m1.errors import RequestError
from minimax_m1.wire.anthropic import CountRequest, MessageRequest, ToolUseBlock
from minimax_m1.wire.anthropic_events import Failure
from minimax_m1.wire.body import read
from minimax_m1.wire.errors import Fault

ASKED: dict[str, Any] = {"model": "nano", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def request(**fields: Any) -> MessageRequest:
    return read(MessageRequest, json.dumps({**ASKED, **fields}).encode())


def test_a_conversation_comes_out_as_the_template_takes_it() -> None:
    asked = request(
        system=[{"type": "text", "text": "Be brief.", **CACHED}, {"type": "text", "text": "Be kind."}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "one", **CACHED}, {"type": "text", "text": "two"}]},
            {"role": "user", "content": "three"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "secret"},
                    {"type": "text", "text": "Well:", "citations": None},
                    {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}, "caller": {"type": "direct"}},
                    {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "2", **CACHED},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "clock"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "And?"},
                ],
            },
            {"role": "system", "content": "Be quick."},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3"}]},
        ],
    )
    assert asked.plain_messages() == [
        {"role": "system", "content": "Be brief.\nBe kind.\nBe quick."},
        {"role": "user", "content": "one\ntwo\nthree"},
        {
            "role": "assistant",
            "content": "Well:",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}},
                {"id": "t2", "type": "function", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "2"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no\nclock"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "2"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
    ]
    assert request(system="Be brief.").plain_messages()[0] == {"role": "system", "content": "Be brief."}


def test_tools_come_out_in_openai_s_wrapping() -> None:
    schema = {"type": "object", "properties": {}}
    asked = request(
        tools=[
            {"name": "add", "description": "Add.", "input_schema": schema, "strict": True, **CACHED},
            {"type": "custom", "name": "now", "input_schema": schema},
        ]
    )
    add = {"name": "add", "description": "Add.", "parameters": schema}
    now = {"type": "function", "function": {"name": "now", "parameters": schema}}
    assert asked.plain_tools() == [{"type": "function", "function": {**add, "strict": True}}, now]


@pytest.mark.parametrize(
    ("choice", "plain"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any", "disable_parallel_tool_use": True}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, "add"),
    ],
)
def test_tool_choice(choice: Any, plain: str) -> None:
    assert request(tool_choice=choice).choice() == plain


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_p": 0.9, "top_k": 5}),
        ({"stop_sequences": ["a", "b"], "expert_threshold": 0.5}, {"stop": ["a", "b"], "expert_threshold": 0.5}),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, {"thinking_budget": 7}),
        ({"thinking": {"type": "disabled"}}, {"thinking_budget": 0}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}, "thinking_budget": 3}, {"thinking_budget": 3}),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto", "made_up": 1}, {}),
    ],
)
def test_sampling_and_thinking(fields: dict[str, Any], chosen: dict[str, Any]) -> None:
    assert request(**fields).chosen() == chosen


def test_a_schema_may_stand_in_two_places() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert request(output_config={"format": form, "effort": "low"}).schema_asked() == {"type": "object"}
    assert request(output_format=form).schema_asked() == {"type": "object"}
    assert request(output_config={"effort": "max"}).schema_asked() is None


def said(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}, {"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "must end with a user",
        ),
        (said({"type": "image", "source": {"type": "url", "url": "x"}}), "type 'image' cannot be read"),
        (said({"type": "document", "source": {}}), "type 'document' cannot be read"),
        (said({"type": "tool_use", "id": "t", "name": "f", "input": {}}), "'tool_use' cannot be the user's"),
        (said({"type": "tool_result", "tool_use_id": "t"}, role="assistant"), "cannot be the assistant's"),
        (said({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}), "type 'image' cannot be"),
        (said({"type": "text"}), "messages.0.content.0.text is required"),
        (said({"text": "a"}), "messages.0.content.0"),
        (said({"type": "thinking", "thinking": 5}, role="assistant"), "messages.0.content.0.thinking: "),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role: "),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "type 'web_search_20250305' is not"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema is required"),
        ({"tool_choice": {"type": "tool"}}, "needs a name"),
        ({"thinking": {"type": "enabled"}}, "needs budget_tokens"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers are not supported"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort: "),
        ({"stop_sequences": [""]}, "stop_sequences.0: "),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as refusal:
        request(**fields)
    assert says in str(refusal.value) and refusal.value.param


def test_counting_needs_no_limit() -> None:
    assert read(CountRequest, b'{"messages": [{"role": "user", "content": "hi"}]}').plain_messages() == [
        {"role": "user", "content": "hi"}
    ]
    with pytest.raises(RequestError, match="max_tokens is required"):
        read(MessageRequest, b'{"messages": [{"role": "user", "content": "hi"}]}')


@pytest.mark.parametrize(
    ("arguments", "input"),
    [
        ('{"a": [1, {"b": "c"}]}', {"a": [1, {"b": "c"}]}),
        ("{", {}),
        ('{"a": 1, "b": "c', {"a": 1}),
        ('{"a": [1', {"a": [1]}),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", {}),
    ],
)
def test_a_call_that_was_cut_keeps_its_whole_values(arguments: str, input: dict[str, Any]) -> None:
    assert ToolUseBlock.of(id="t", name="f", arguments=arguments).input == input


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_faults_in_anthropic_s_words(status: int, kind: str) -> None:
    fault = Fault(status, "so it is", code="x")
    assert Failure.of(fault, "r1").model_dump() == {
        "type": "error",
        "error": {"type": kind, "message": "so it is"},
        "request_id": "r1",
    }
    assert "request_id" not in Failure.of(fault, "").model_dump()
