"""Messages and tools as the chat template takes them."""

from __future__ import annotations

from minimax_m1.wire.messages import Function, FunctionCall, Message, TextPart, Tool, ToolCall, plain, plain_tools


def test_turns_come_out_plain() -> None:
    call = ToolCall(id="c1", function=FunctionCall(name="add", arguments='{"a": 1}'))
    turns = plain(
        [
            Message(role="developer", content="Be brief."),
            Message(role="user", content=[TextPart(type="text", text="one"), TextPart(type="text", text="two")]),
            Message(role="assistant", reasoning="hm", tool_calls=[call]),
            Message(role="tool", content="2", tool_call_id="c1"),
        ]
    )
    assert turns == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]


def test_reasoning_content_wins_over_its_other_name() -> None:
    [turn] = plain([Message(role="assistant", content="x", reasoning_content="a", reasoning="b")])
    assert turn == {"role": "assistant", "content": "x", "reasoning_content": "a"}


def test_bare_and_wrapped_tools_are_one() -> None:
    bare = Function(name="add", description="Add.", parameters={"type": "object"})
    wrapped = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}
    assert plain_tools([bare, Tool(type="function", function=bare)]) == [wrapped, wrapped]
