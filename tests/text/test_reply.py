"""The reply parser: M1's and Text-01's formats, malformed ones, and any chunking."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.text import chat
from minimax_m1.text.reply import Piece, Reply, ReplyParser, ToolCall, parse_reply

CALL = '{"name": "f", "arguments": {"x": 1}}'
BLOCK = f"<tool_calls>\n{CALL}\n</tool_calls>"
F = ToolCall(name="f", arguments='{"x": 1}')

CASES = [
    ("", "", "", ()),
    ("hi", "", "hi", ()),
    (" \n hi\n", "", " \n hi\n", ()),
    ("<think>\nhm\n</think>\n\nhi", "hm", "hi", ()),
    ("\n <think>hm</think>hi", "hm", "hi", ()),
    ("<think>\n\nhm\n\n</think>\n\n\nhi", "\nhm\n", "\nhi", ()),
    ("<think>\nhm", "hm", "", ()),
    ("<think>\n</think>\n\n", "", "", ()),
    ("<thin", "", "<thin", ()),
    ("a <think> b </think>", "", "a <think> b </think>", ()),
    (f"<tool_calls>\n{CALL}\n</tool_calls>", "", "", (F,)),
    (f"hi\n\n<tool_calls>\n{CALL}\n{CALL}\n</tool_calls>\n", "", "hi", (F, F)),
    (f"<think>\nhm\n</think>\n\nhi\n\n<tool_calls>\n{CALL}\n</tool_calls>", "hm", "hi", (F,)),
    (f"<think>\n{BLOCK}\n</think>\n\nno", BLOCK, "no", ()),
    (f"<tool_calls>\n{CALL}", "", "", (F,)),
    (f"<tool_calls>{CALL}</tool_calls>", "", "", (F,)),
    (f"<tool_calls>\n  {CALL}  \n\n{CALL}\n</tool_calls>bye", "", "bye", (F, F)),
    (f"hi\n<tool_calls>\n{CALL}\n</tool_calls>\nbye", "", "hi\nbye", (F,)),
    (f"<tool_calls>\n{CALL}\n</tool_calls>\n\n<tool_calls>\n{CALL}\n</tool_calls>", "", "", (F, F)),
    (f"<tool_calls>\nwhat\n{CALL}\n" + '{"name": "f"}\n</tool_calls>', "", 'what\n{"name": "f"}', (F,)),
    ('hi\n\n<tool_calls>\n{"name": "f", "arguments": {\n</tool_calls>', "", 'hi\n{"name": "f", "arguments": {', ()),
    ("<tool_calls>\nwhat</tool_calls>bye", "", "what\nbye", ()),
    ("<tool_calls>\n</tool_calls>", "", "", ()),
    ('<tool_calls>\n{"name": 5, "arguments": {}}', "", '{"name": 5, "arguments": {}}', ()),
    ('<tool_calls>\n{"name": "f", "arguments": {"x": NaN}}', "", '{"name": "f", "arguments": {"x": NaN}}', ()),
    ('<tool_calls>\n{"name": "f", "arguments": "{\\"x\\": 1}"}', "", "", (F,)),
    ("<tool_calls", "", "<tool_calls", ()),
    (
        '<tool_calls>\n{"name": "f", "arguments": {"x": "</tool_calls>"}}\n</tool_calls>',
        "",
        "",
        (ToolCall(name="f", arguments='{"x": "</tool_calls>"}'),),
    ),
    (
        '<tool_calls>\n{"name": "f", "arguments": {"x": "</tool_calls>"}}</tool_calls>and more on the same line',
        "",
        "and more on the same line",
        (ToolCall(name="f", arguments='{"x": "</tool_calls>"}'),),
    ),
    (
        '<tool_calls>\n{"name": "f", "arguments": {"x": "\\ud800"}}',
        "",
        "",
        (ToolCall(name="f", arguments='{"x": "\\ud800"}'),),
    ),
    ("let me\n<function_call>```typescript\nfunctions.f({\"x\": 1})\n```", "", "let me", (F,)),
    (
        "<function_call>```typescript\nfunctions.f({\"x\": 1})\nfunctions.f(1)\n```\nbye",
        "",
        "functions.f(1)\nbye",
        (F,),
    ),
]  # fmt: skip


def gather(pieces: Iterable[Piece]) -> Reply:
    text = {"reasoning": "", "content": ""}
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.kind == "tool_call":
            assert piece.index == len(calls)
            calls.append(ToolCall(name=piece.name, arguments=piece.arguments))
        else:
            assert piece.text
            text[piece.kind] += piece.text
    return Reply(reasoning=text["reasoning"], content=text["content"], tool_calls=tuple(calls))


@pytest.mark.parametrize(("text", "reasoning", "content", "calls"), CASES)
def test_formats_whole_and_letter_by_letter(
    text: str, reasoning: str, content: str, calls: tuple[ToolCall, ...]
) -> None:
    expected = Reply(reasoning=reasoning, content=content, tool_calls=calls)
    assert parse_reply(text) == expected
    parser = ReplyParser()
    assert gather([piece for letter in text for piece in parser.feed(letter)] + parser.finish()) == expected


ATOMS = [
    "<think>", "</think>", "<tool_calls>", "</tool_calls>", "<function_call>", "```typescript\n", "```", "\n",
    "\n\n", " ", "a", CALL, CALL + "\n", '{"name": "f", "arguments": {"x": "', '"}}', "functions.f({})", "<",
    ">", "{", "}", "</", "é", "<tool",
]  # fmt: skip


@settings(max_examples=1000)
@given(
    text=st.lists(st.sampled_from(ATOMS), max_size=14).map("".join),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    thinking=st.booleans(),
    tools=st.booleans(),
)
def test_any_chunking_gives_the_same(text: str, cuts: list[int], thinking: bool, tools: bool) -> None:
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parser = ReplyParser(thinking=thinking, tools=tools)
    pieces: list[Piece] = []
    for start, stop in zip([0, *places], [*places, len(text)], strict=True):
        pieces += parser.feed(text[start:stop])
    assert gather(pieces + parser.finish()) == parse_reply(text, thinking=thinking, tools=tools)
    assert parser.finish() == []


@given(text=st.text(alphabet="ab<>{}\n think/", max_size=60))
def test_text_without_whole_tags_comes_back_untouched(text: str) -> None:
    if "<think>" not in text:
        assert parse_reply(text) == Reply(reasoning="", content=text, tool_calls=())


@given(
    reasoning=st.text(alphabet="ab \n<é", max_size=12),
    content=st.text(alphabet="ab \n<é", max_size=12),
    arguments=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.integers()), max_size=3),
)
def test_what_the_template_writes_is_read_back(
    reasoning: str, content: str, arguments: list[dict[str, str | int]]
) -> None:
    calls = [{"function": {"name": "f", "arguments": json.dumps(value)}} for value in arguments]
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": calls}
    prompt = chat.render([message], add_generation_prompt=False)
    said = prompt.split("ai name=assistant\n", 1)[1].removesuffix("<end_of_sentence>\n")
    reply = parse_reply(said)
    assert (reply.reasoning, reply.content) == (reasoning, content)
    assert [json.loads(call.arguments) for call in reply.tool_calls] == arguments


def test_pieces_are_told_at_once() -> None:
    parser = ReplyParser()
    assert parser.feed("<think>\nhm") == [Piece(kind="reasoning", text="hm")] and parser.thinking
    assert parser.feed("\n</thi") == []
    assert parser.feed("nk>\n\nhi") == [Piece(kind="content", text="hi")] and not parser.thinking
    assert parser.feed(f"\n\n<tool_calls>\n{CALL}") == []
    assert parser.feed("\n") == [Piece(kind="tool_call", index=0, name="f", arguments='{"x": 1}')]
    assert parser.finish() == []


def test_without_tools_or_thinking_the_tags_are_answer() -> None:
    text = f"<think>\nhm\n</think>\n\n<tool_calls>\n{CALL}\n</tool_calls>"
    assert parse_reply(text, thinking=False, tools=False).content == text
    assert parse_reply(text, tools=False).content == text.split("\n\n", 1)[1]


def test_a_call_nested_too_deep_is_answer() -> None:
    line = '{"name": "f", "arguments": ' + "[" * 100_000 + "}"
    assert parse_reply("<tool_calls>\n" + line).content == line
