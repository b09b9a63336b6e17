"""The Responses contract: what is read, what is refused by name, and what items say to the template."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import read
from minimax_m1.wire.responses import (
    CountRequest,
    ResponseReply,
    ResponseRequest,
    StoredResponse,
    TextConfig,
    TextFormat,
)
from minimax_m1.wire.responses_events import LifeEvent, TextDelta
from minimax_m1.wire.responses_items import (
    CallItem,
    CallOutputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    plain_items,
    sealed,
    unsealed,
)

ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def asked(**body: Any) -> ResponseRequest:
    return read(ResponseRequest, json.dumps({"input": "hello", **body}).encode())


def items(*given: Any) -> list[Any]:
    request = asked(input=list(given))
    assert isinstance(request.input, list)
    return [each if isinstance(each, ItemReference) else each.item(f"in_{n}") for n, each in enumerate(request.input)]


def empty(**fields: Any) -> ResponseReply:
    nothing = dict.fromkeys(
        (
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "previous_response_id",
            "prompt_cache_key",
            "safety_identifier",
            "user",
        )
    )
    known: dict[str, Any] = {
        "id": "resp_1",
        "created_at": 1,
        "status": "in_progress",
        "background": False,
        "model": "nano",
        "parallel_tool_calls": True,
        "reasoning": {},
        "store": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "text": {},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "metadata": {},
    }
    return ResponseReply.model_validate({**nothing, **known, **fields})


def test_items_in_their_short_and_long_forms() -> None:
    [message, said, thought, call, output, reference] = items(
        {"role": "user", "content": "2 + 2?"},
        {
            "type": "message",
            "id": "msg_7",
            "role": "assistant",
            "status": "incomplete",
            "content": [
                {"type": "output_text", "text": "Well", "annotations": [], "logprobs": None},
                {"type": "refusal", "refusal": "!"},
            ],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]},
        {"type": "item_reference", "id": "rs_1"},
    )
    assert isinstance(message, MessageItem) and (message.id, message.status, message.text) == (
        "in_0",
        "completed",
        "2 + 2?",
    )
    assert isinstance(said, MessageItem) and (said.id, said.status, said.text) == ("msg_7", "incomplete", "Well!")
    assert [part.type for part in said.content] == ["output_text", "refusal"]
    assert isinstance(thought, ReasoningItem) and thought.text == "Hm."
    assert isinstance(call, CallItem) and call.id == "in_3"
    assert isinstance(output, CallOutputItem) and output.text == "4"
    assert isinstance(reference, ItemReference) and reference.id == "rs_1"


def test_items_become_the_turns_of_a_chat() -> None:
    given = items(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "2 + "}, {"type": "input_text", "text": "2?"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": sealed("I add.")},
        {"role": "assistant", "content": "Well:"},
        {"type": "function_call", "call_id": "a", "name": "add", "arguments": '{"a": 2}'},
        {"type": "function_call", "call_id": "b", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "4"},
        {"type": "function_call_output", "call_id": "b", "output": "5"},
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "or 5"},
        {"type": "reasoning", "summary": [], "content": []},
    )
    assert plain_items(given, "You are kind.") == [
        {"role": "system", "content": "You are kind."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {
            "role": "assistant",
            "reasoning_content": "I add.",
            "content": "Well:",
            "tool_calls": [
                {"id": "a", "function": {"name": "add", "arguments": '{"a": 2}'}},
                {"id": "b", "function": {"name": "add", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "tool", "tool_call_id": "b", "content": "5"},
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "or 5"},
    ]


def test_a_thought_after_a_call_begins_another_turn() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Again."}]}
    call = {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}"}
    turns = plain_items(items(call, thought, {"role": "assistant", "content": "4"}))
    assert [sorted(turn) for turn in turns] == [["role", "tool_calls"], ["content", "reasoning_content", "role"]]


def test_a_thought_goes_through_its_seal_and_a_strange_seal_does_not() -> None:
    assert unsealed(sealed("2 + 2 = 4 ❄")) == "2 + 2 = 4 ❄"
    for strange in ("gAAAAABo", "plain:%%%", "plain:/w==", ""):
        with pytest.raises(RequestError, match="another server"):
            unsealed(strange)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": None}, "input", "input is required"),
        ({"input": ""}, "input", "input is empty"),
        ({"input": []}, "input", "input is empty"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role", "'user', 'assistant'"),
        ({"input": [{"role": "user"}]}, "input.0.content", "is required"),
        ({"input": [{"type": "web_search_call"}]}, "input", "items of the type 'web_search_call' are not served"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input",
            "content of the type 'input_image' is not served: this model reads text",
        ),
        ({"input": [{"type": "function_call", "name": "add", "arguments": "{}"}]}, "input.0.call_id", "is required"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools of the type 'web_search' are not served"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools.0.name", "at least 1 character"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type", "function"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "needs a schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_object"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id is"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "prompt is not served"),
        ({"moderation": {"model": "x"}}, "moderation", "not served"),
        ({"context_management": []}, "context_management", "not served"),
        ({"stream_options": {}}, "stream_options", "only allowed when stream is true"),
        ({"background": True, "store": False}, "background", "background needs store"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort", "'xhigh'"),
        ({"include": ["everything"]}, "include.0", "message.output_text.logprobs"),
        ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "at most 512"),
        ({"metadata": {"a": 5}}, "metadata.a", "valid string"),
        ({"truncation": "middle"}, "truncation", "'auto' or 'disabled'"),
    ],
)
def test_what_cannot_be_served_is_named(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as refused:
        asked(**body)
    assert refused.value.param == param


def test_unknown_fields_are_ignored_and_hints_are_taken() -> None:
    request = asked(
        colour="red",
        truncation="auto",
        text={"verbosity": "low"},
        service_tier="flex",
        include=["web_search_call.results"],
    )
    assert request.form() is None and request.choice() == "auto" and "logprobs" not in request.chosen()


def test_previous_response_alone_is_enough_of_an_input() -> None:
    assert read(CountRequest, b'{"previous_response_id": "resp_1"}').input is None


def test_tools_are_wrapped_and_chosen() -> None:
    subtract = {"type": "function", "name": "subtract"}
    request = asked(tools=[ADD, subtract], tool_choice={"type": "function", "name": "add"})
    assert request.choice() == "add"
    assert request.wrapped_tools()[0] == {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object"}, "strict": True},
    }
    assert request.wrapped_tools()[1]["function"] == {"name": "subtract"}
    few = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "subtract"}]}
    request = asked(tools=[ADD, subtract], tool_choice=few)
    assert (request.choice(), [tool["function"]["name"] for tool in request.wrapped_tools()]) == (
        "required",
        ["subtract"],
    )
    with pytest.raises(RequestError, match="allows 'subtract', which is none of the tools"):
        asked(tools=[ADD], tool_choice=few).wrapped_tools()


def test_forms_and_logprobs() -> None:
    schema = {"type": "object"}
    formats = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    assert asked(text={"format": formats}).form() == {"json": schema}
    assert asked(text={"format": {"type": "json_object"}}).form() == {"json_object": True}
    assert asked(text={"format": {"type": "text"}}).form() is None
    assert asked(include=["message.output_text.logprobs"]).chosen()["logprobs"] == 0
    assert asked(top_logprobs=3, temperature=0.5).chosen() == {"logprobs": 3, "temperature": 0.5}


def test_a_response_is_the_same_after_it_was_kept() -> None:
    form = TextFormat.model_validate({"type": "json_schema", "name": "x", "schema": {"type": "object"}})
    few = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}
    reply = empty(
        text=TextConfig(format=form),
        tools=[{k: v for k, v in ADD.items()}],
        tool_choice=few,
        output=[
            {
                "type": "reasoning",
                "id": "rs",
                "status": "completed",
                "content": [{"type": "reasoning_text", "text": "?"}],
            },
            {
                "type": "function_call",
                "id": "fc",
                "status": "completed",
                "call_id": "c",
                "name": "add",
                "arguments": "{}",
            },
        ],
    )
    record = StoredResponse(response=reply, input=items({"role": "user", "content": "hi"}))
    value = json.loads(json.dumps(record.model_dump(mode="json", by_alias=True)))
    assert value["response"]["text"]["format"] == {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
    assert StoredResponse.model_validate(value) == record


def test_an_event_is_named_after_its_type() -> None:
    delta = TextDelta(sequence_number=4, item_id="msg", output_index=1, delta="4", logprobs=[])
    name, data, *_ = delta.encode().decode().split("\n")
    assert name == "event: response.output_text.delta"
    assert json.loads(data.removeprefix("data: ")) == {
        "sequence_number": 4,
        "type": "response.output_text.delta",
        "item_id": "msg",
        "output_index": 1,
        "content_index": 0,
        "delta": "4",
        "logprobs": [],
    }
    created = LifeEvent(sequence_number=0, type="response.created", response=empty())
    assert created.encode().startswith(b"event: response.created\n")
