"""Forms that cannot be followed are refused in one sentence, quickly and quietly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from minimax_m1.errors import RequestError
from minimax_m1.text.grammar import call_format
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


@pytest.fixture(scope="module")
def maker(small: MiniMaxM1Tokenizer) -> GuideMaker:
    return GuideMaker(small, small.vocab_size)


def nested(depth: int) -> str:
    return '{"type": "array", "items": ' * depth + "{}" + "}" * depth


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "not": ({"json": {"not": {"type": "string"}}}, 'Unimplemented keys: ["not"]'),
    "type": ({"json": {"type": "nonsense"}}, "Invalid type: nonsense"),
    "no json": ({"json": "{"}, "structured_outputs.json cannot be followed: Expecting"),
    "no object": ({"json": "[1]"}, "a schema must be an object"),
    "not a number": ({"json": {"const": float("nan")}}, "structured_outputs.json"),
    "no json value": ({"json": {"const": {1, 2}}}, "not JSON serializable"),
    "surrogate": ({"json": {"const": "\ud800"}}, "structured_outputs"),
    "remote": ({"json": {"$ref": "http://example.com/x"}}, "http://example.com/x"),
    "itself": ({"json": {"$ref": "#"}}, "no text at all fits it"),
    "deep text": ({"json": nested(200)}, "recursion limit"),
    "very deep text": ({"json": nested(4000)}, "structured_outputs"),
    "deep": ({"json": deep(3000)}, "structured_outputs"),
    "huge": ({"json": {"enum": [f"value {i}" for i in range(100_000)]}}, "at most 131072"),
    "false": ({"json": {"type": "string", "minLength": 3, "maxLength": 2}}, "structured_outputs"),
    "regex": ({"regex": "("}, "unclosed group"),
    "look-around": ({"regex": "a(?!b)"}, "look-around"),
    "no text": ({"regex": r"[^\s\S]"}, "no text at all fits it"),
    "deep regex": ({"regex": "(" * 5000 + "a" + ")" * 5000}, "structured_outputs"),
    "no regex": ({"regex": 3}, "must be text, got int"),
    "no choice": ({"choice": []}, "at least one string"),
    "one string": ({"choice": "abc"}, "at least one string"),
    "numbers": ({"choice": [1, 2]}, "at least one string"),
    "lark": ({"grammar": "start: foo"}, "unknown name"),
    "deep lark": ({"grammar": "start: " + "(" * 3000 + '"a"' + ")" * 3000}, "too deeply nested"),
    "gbnf": ({"grammar": 'root ::= "a'}, "structured_outputs.grammar"),
    "deep gbnf": ({"grammar": "root ::= " + "(" * 3000 + '"a"' + ")" * 3000}, "structured_outputs.grammar"),
    "no grammar": ({"grammar": ""}, "structured_outputs"),
    "two": ({"regex": "a", "json_object": True}, "at most one of json, regex, choice, grammar and json_object, got 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_form_that_cannot_be_followed_is_refused(
    maker: GuideMaker, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, says = REFUSED[case]
    began = time.monotonic()
    with pytest.raises(RequestError) as refusal:
        maker.guide(**asked)
    message = str(refusal.value)
    assert says in message
    assert refusal.value.param == "structured_outputs"
    assert len(message) < 250
    assert "\n" not in message
    assert time.monotonic() - began < 20  # under a second on a machine with nothing else to do
    assert capfd.readouterr() == ("", "")


def test_a_form_that_grows_too_large_on_the_way_is_refused_then(maker: GuideMaker) -> None:
    guide = maker.guide(json={"properties": {f"p{i}": {"type": "null"} for i in range(1000)}}, thinking=False)
    assert guide is not None
    with pytest.raises(RequestError, match="the form of this reply was lost"):
        for id in maker._lexicon.tokenizer.encode('{"p1": null, "p2": null}'):
            guide.mask()
            guide.accept(id)
    with pytest.raises(RequestError, match="the form of this reply was lost"):
        guide.mask()


TOOLS_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no object": ({"name": "f", "parameters": {"type": "string"}}, "tools[1].parameters must be"),
    "no schema": ({"name": "f", "parameters": [1]}, "tools[1].parameters must be"),
    "unknown": ({"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}, "'f' cannot be followed: Unimpl"),
    "huge": ({"name": "f", "parameters": {"description": "x" * 200_000}}, "tools[1].parameters has 2000"),
    "surrogate": ({"name": "\ud800"}, "tools cannot be followed"),
}


@pytest.mark.parametrize("case", TOOLS_REFUSED)
def test_a_tool_that_cannot_be_followed_is_refused_by_name(maker: GuideMaker, case: str) -> None:
    tool, says = TOOLS_REFUSED[case]
    with pytest.raises(RequestError) as refusal:
        maker.guide(tools=[{"name": "fine"}, tool], tool_choice="required")
    assert says in str(refusal.value)
    assert refusal.value.param == "tools"


@pytest.mark.parametrize("choice", ["required", "other"])
@pytest.mark.parametrize("tools", [None, [{"name": "f"}]])
def test_a_choice_among_no_tools_is_refused(maker: GuideMaker, choice: str, tools: list[dict[str, Any]] | None) -> None:
    if choice == "required" and tools:
        assert maker.guide(tools=tools, tool_choice=choice) is not None
        return
    with pytest.raises(RequestError) as refusal:
        maker.guide(tools=tools, tool_choice=choice)
    assert refusal.value.param == "tool_choice"


@pytest.mark.parametrize(
    "ask",
    [
        lambda maker: maker.guide(),
        lambda maker: maker.guide(tools=[{"name": "f"}]),
        lambda maker: maker.guide(tools=[{"name": "f"}], tool_choice="none", strict_auto=True),
        lambda maker: maker.guide(tool_choice="none", thinking=False, thinking_budget=3),
    ],
)
def test_where_nothing_is_asked_nothing_is_guided(maker: GuideMaker, ask: Callable[[GuideMaker], object]) -> None:
    assert ask(maker) is None


def test_each_template_has_its_format(published_template: str) -> None:
    assert call_format(published_template).tag == "<tool_calls>"
    text01 = "<beginning_of_sentence>system function_setting=functions\n"
    assert call_format(text01).tag == "<function_call>"


def test_a_schema_cannot_change_how_json_is_written(maker: GuideMaker) -> None:
    schema = {"const": [1, 2], "x-guidance": {"whitespace_flexible": True, "lenient": True, "item_separator": " ;"}}
    for asked in (schema, json.dumps(schema)):
        guide = maker.guide(json=asked, thinking=False)
        assert guide is not None
        text = maker._lexicon.tokenizer.decode(list(guide.forced()))
        assert "[1, 2]".startswith(str(text)) and len(text) >= 4
