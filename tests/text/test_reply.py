"""The reply parser: M1's and Text-01's formats, malformed ones, and any chunking."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.text import chat
from minimax_m1.text.grammar import call_format
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
        elif piece.kind == "arguments":
            assert piece.text and piece.index == len(calls) - 1
            calls[-1] = ToolCall(name=calls[-1].name, arguments=calls[-1].arguments + piece.text)
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
    guided=st.booleans(),
)
def test_any_chunking_gives_the_same(text: str, cuts: list[int], thinking: bool, tools: bool, guided: bool) -> None:
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parser = ReplyParser(thinking=thinking, tools=tools, guided=guided)
    pieces: list[Piece] = []
    for start, stop in zip([0, *places], [*places, len(text)], strict=True):
        pieces += parser.feed(text[start:stop])
    whole = ReplyParser(thinking=thinking, tools=tools, guided=guided)
    expected = gather(whole.feed(text) + whole.finish())
    assert gather(pieces + parser.finish()) == expected
    assert parser.finish() == []
    if not guided:
        assert parse_reply(text, thinking=thinking, tools=tools) == expected


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


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["</tool_calls>", "```", '\\"}{)']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(
    template=st.sampled_from(["", "function_setting=functions"]),
    calls=st.lists(
        st.tuples(st.sampled_from(["f", "add.two-3", "名"]), st.dictionaries(st.text(max_size=4), VALUES, max_size=3)),
        min_size=1,
        max_size=3,
    ),
    ascii=st.booleans(),
    cuts=st.lists(st.integers(0, 500), max_size=6),
)
def test_guided_calls_are_told_as_written_however_they_are_cut(
    template: str, calls: list[tuple[str, dict[str, object]]], ascii: bool, cuts: list[int]
) -> None:
    form = call_format(template)
    written = [(name, json.dumps(arguments, ensure_ascii=ascii)) for name, arguments in calls]
    lines = [
        form.before.format(name=json.dumps(name, ensure_ascii=False) if form.quoted else name) + arguments + form.after
        for name, arguments in written
    ]
    text = "<think>\nhm\n</think>\n\n" + form.tag + form.head + "".join(lines) + form.end
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parser = ReplyParser(guided=True)
    pieces: list[Piece] = []
    for start, stop in zip([0, *places], [*places, len(text)], strict=True):
        pieces += parser.feed(text[start:stop])
    expected = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in written)
    assert gather(pieces + parser.finish()) == Reply(reasoning="hm", content="", tool_calls=expected)
    assert all(not piece.arguments for piece in pieces)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ('<tool_calls>\n{"name": "f", "arguments": ', "}\n</tool_calls>"),
        ("<function_call>```typescript\nfunctions.f(", ")\n```"),
    ],
)
def test_guided_arguments_are_told_at_once_and_stand_where_they_are_cut(opening: str, closing: str) -> None:
    parser = ReplyParser(guided=True)
    assert parser.feed(opening) == []
    assert parser.feed("{") == [
        Piece(kind="tool_call", index=0, name="f"),
        Piece(kind="arguments", index=0, text="{"),
    ]
    assert parser.feed('"x": "a}') == [Piece(kind="arguments", index=0, text='"x": "a}')]
    assert ReplyParser.finish(parser) == []  # cut here, what was told stands
    assert parser.feed('b\\"') == [Piece(kind="arguments", index=0, text='b\\"')]
    assert parser.feed('"}' + closing) == [Piece(kind="arguments", index=0, text='"}')]
    assert parser.feed("\nbye") + parser.finish() == [Piece(kind="content", text="bye")]


def test_a_line_that_breaks_the_promise_is_read_as_without_it() -> None:
    parser = ReplyParser(guided=True)
    lines = ['{"arguments": {"x": 1}, "name": "f"}', "what", CALL, '{"name": "\\ud800", "arguments": {}}']
    reply = gather([*parser.feed("<tool_calls>\n" + "\n".join(lines) + "\n</tool_calls>"), *parser.finish()])
    assert reply == Reply(reasoning="", content="what\n" + lines[-1], tool_calls=(F, F))
    same_line = ReplyParser(guided=True)
    assert same_line.feed('<tool_calls>\n{"name": "f", "argum') == []
    assert same_line.feed('ents": {}}</tool_calls>bye')[-1] == Piece(kind="content", text="bye")
    cut = ReplyParser(guided=True)
    assert gather(cut.feed('hi\n\n<tool_calls>\n{"name": "f"') + cut.finish()).content == 'hi\n{"name": "f"'
