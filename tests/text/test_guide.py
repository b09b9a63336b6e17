"""Guided walks: whatever a chooser picks among what the mask allows, the reply has the form that was asked for."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import RequestError
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.reply import ToolCall, parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import BOS, EOS

SPARE = 5  # ids of the model that have no token

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "maximum": 99}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
PING = {"type": "function", "function": {"name": "ping", "description": "No arguments."}}
TOOLS = [WEATHER, PING]


class Walker:
    """A maker, its tokenizer, and choosers that obey its guides."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.maker = GuideMaker(tokenizer, tokenizer.vocab_size + SPARE)

    def walk(self, guide: Any, seed: int = 0, *, start: str = "", most: int = 4000) -> str:
        """The text of a reply that begins as `start`, with its own tokens, and goes on at random to its end."""
        rng = random.Random(seed)
        ids: list[int] = []
        given = self.tokenizer.encode(start)
        while len(ids) < most:
            mask = guide.mask()
            forced = list(guide.forced())
            if given:
                id = given.pop(0)
            elif forced:
                id = forced[0]
            else:
                assert mask is not None, "free text has no end of its own"
                id = rng.choice(np.flatnonzero(mask).tolist())
            assert mask is None or mask[id]
            assert mask is None or not mask[-SPARE:].any()
            if id == self.tokenizer.eos_token_id:
                assert guide.accept(id)
                break
            ids.append(id)
            if guide.accept(id):
                break
        else:
            raise AssertionError("the reply does not end")
        text = self.tokenizer.decode(ids)
        assert isinstance(text, str)
        return text

    def takes(self, guide: Any, text: str) -> bool:
        """Whether the ids of `text` and then the end may come."""
        for id in [*self.tokenizer.encode(text, split_special=True), self.tokenizer.eos_token_id]:
            mask = guide.mask()
            if not mask[id]:
                return False
            if guide.accept(id):
                return True
        return False


@pytest.fixture(scope="module", params=["small", "published", "tags are text"])
def walker(request: pytest.FixtureRequest) -> Walker:
    if request.param == "tags are text":  # as in the published vocabulary
        corpus = ['<think>\n</think>\n\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'] * 8
        return Walker(MiniMaxM1Tokenizer.train(corpus, vocab_size=300, specials=(BOS, EOS)))
    return Walker(request.getfixturevalue(request.param))


def schemas(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Small schemas whose every value is finite."""
    leaves = st.one_of(
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
        st.builds(
            lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
            st.integers(-200, 200),
            st.integers(0, 300),
        ),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
        st.builds(
            lambda values: {"enum": values},
            st.lists(
                st.one_of(st.text(max_size=4), st.integers(-(2**53), 2**53), st.none(), st.booleans()),
                min_size=1,
                max_size=3,
            ),
        ),
    )
    if depth == 0:
        return leaves
    inner = schemas(depth - 1)
    arrays = st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 3))
    names = st.text(min_size=1, max_size=4)
    objects = st.dictionaries(names, inner, max_size=3).flatmap(
        lambda properties: st.builds(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            },
            st.sets(st.sampled_from(sorted(properties))) if properties else st.just(set()),
        )
    )
    return st.one_of(leaves, arrays, objects)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is one of those that a schema of `schemas` allows."""
    if "enum" in schema:
        return any(type(value) is type(one) and value == one for one in schema["enum"])
    kind = schema["type"]
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema.get("maxLength", 9**9)
    if kind == "integer":
        low, high = schema.get("minimum", value), schema["maximum"]
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "array":
        good = isinstance(value, list) and len(value) <= schema["maxItems"]
        return good and all(fits(item, schema["items"]) for item in value)
    properties = schema["properties"]
    good = isinstance(value, dict) and set(schema["required"]) <= set(value) <= set(properties)
    return good and all(fits(item, properties[name]) for name, item in value.items())


@settings(max_examples=40)
@given(schema=schemas(), seed=st.integers(0, 10**6), as_text=st.booleans())
def test_every_walk_ends_in_json_for_its_schema(
    walker: Walker, schema: dict[str, Any], seed: int, as_text: bool
) -> None:
    guide = walker.maker.guide(json=json.dumps(schema) if as_text else schema, thinking=False)
    text = walker.walk(guide, seed)
    assert fits(json.loads(text), schema), (text, schema)
    assert "<" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", text)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_forced_ids_are_what_the_mask_allows_one_by_one(walker: Walker, seed: int) -> None:
    schema = {"type": "object", "properties": {"first": {"enum": ["one", "two"]}, "second": {"type": "null"}}}
    schema |= {"required": ["first", "second"], "additionalProperties": False}
    guide: Any = walker.maker.guide(json=schema, thinking=False)
    rng = random.Random(seed)
    forced_ids = 0
    over = False
    ids: list[int] = []
    while not over:
        forced = guide.forced()
        forced_ids += len(forced)
        for id in forced or [rng.choice(np.flatnonzero(guide.mask()).tolist())]:
            assert guide.mask()[id]
            ids.append(id)
            over = guide.accept(id)
    text = str(walker.tokenizer.decode(ids))
    assert text in ('{"first": "one", "second": null}', '{"first": "two", "second": null}')
    assert forced_ids > len(ids) / 2


def test_special_tokens_never_stand_inside_a_json_string(walker: Walker) -> None:
    guide: Any = walker.maker.guide(json={"type": "string"}, thinking=False)
    added = list(walker.tokenizer.added_tokens.values())
    for id in walker.tokenizer.encode('"a'):
        assert not guide.mask()[added].any()
        assert not guide.accept(id)
    assert guide.mask().sum() > 150
    assert not guide.mask()[added].any()
    with pytest.raises(RequestError, match="the form of this reply was lost"):
        guide.accept(added[0])


def test_their_names_may_stand_there_as_text(walker: Walker) -> None:
    guide = walker.maker.guide(json={"type": "string"}, thinking=False)
    assert walker.takes(guide, '"<think> </tool_calls> <end_of_sentence>"')


def test_forced_text_that_names_a_special_token_stays_text(walker: Walker) -> None:
    for name in walker.tokenizer.added_tokens:
        guide: Any = walker.maker.guide(choice=[f"a {name} b"], thinking=False)
        ids = list(guide.forced())
        assert walker.tokenizer.decode(ids) == f"a {name} b"
        assert not set(ids) & set(walker.tokenizer.added_tokens.values())


@pytest.mark.parametrize("text", ["é", "🙂", "北京"])
def test_a_character_may_be_split_over_byte_tokens_and_must_be_whole(walker: Walker, text: str) -> None:
    guide: Any = walker.maker.guide(json={"type": "string"}, thinking=False)
    symbols = {walker.tokenizer.token_bytes(id): id for id in range(256 + len(walker.tokenizer.added_tokens))}
    symbols = {spelled: id for spelled, id in symbols.items() if len(spelled) == 1}
    quote, plain = symbols[b'"'], symbols[b"a"]
    guide.accept(quote)
    for character in text:
        *front, last = character.encode()
        for byte in front:
            guide.accept(symbols[bytes([byte])])
            assert not guide.mask()[[quote, plain, walker.tokenizer.eos_token_id]].any()
        assert guide.mask()[symbols[bytes([last])]]
        guide.accept(symbols[bytes([last])])
        assert guide.mask()[[quote, plain]].all()
    assert guide.accept(quote)
    for byte in (0xFF, 0xC0, 0x80):  # no character begins with these
        fresh: Any = walker.maker.guide(json={"type": "string"}, thinking=False)
        fresh.accept(quote)
        assert not fresh.mask()[symbols[bytes([byte])]]


@pytest.mark.parametrize("seed", range(5))
def test_regex_choice_grammar_and_object_hold(walker: Walker, seed: int) -> None:
    def ask(**form: Any) -> str:
        return walker.walk(walker.maker.guide(**form, thinking=False), seed)

    assert re.fullmatch(r"[a-c]{2,5}-\d{3}", ask(regex=r"[a-c]{2,5}-[0-9]{3}"))
    assert ask(choice=["yes", "no", 'a "quoted" é🙂\n']) in ("yes", "no", 'a "quoted" é🙂\n')
    assert re.fullmatch(r"(ab)+c?", ask(grammar='start: "ab"+ "c"?'))
    assert re.fullmatch(r"[xy]\(z\)", ask(grammar='root ::= [xy] "(" z ")"\nz ::= "z"'))
    assert walker.takes(walker.maker.guide(json_object=True, thinking=False), '{"a": [1, {"b": null}], "c": "d"}')
    assert not walker.takes(walker.maker.guide(json_object=True, thinking=False), '["a"]')


def test_the_end_may_come_exactly_where_the_grammar_ends(walker: Walker) -> None:
    guide: Any = walker.maker.guide(regex="a(ba)?", thinking=False)
    eos = walker.tokenizer.eos_token_id
    a, b = walker.tokenizer.encode("a")[0], walker.tokenizer.encode("b")[0]
    ends = [guide.mask()[eos]]
    for id in (a, b):
        assert guide.accept(id) is False
        ends.append(guide.mask()[eos])
    assert ends == [False, True, False]
    assert guide.accept(a) is True  # nothing but the end may follow
    empty: Any = walker.maker.guide(regex="", thinking=False)
    assert np.flatnonzero(empty.mask()).tolist() == [eos]
    assert empty.accept(eos)


def called(text: str) -> Sequence[ToolCall]:
    """The calls of a reply that is nothing but calls, valid ones."""
    reply = parse_reply(text)
    assert reply.content == ""
    for call in reply.tool_calls:
        arguments = json.loads(call.arguments)
        if call.name == "ping":
            assert arguments == {}
        else:
            assert call.name == "get_weather"
            assert fits(arguments, WEATHER["parameters"])
    return reply.tool_calls


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), several=st.booleans())
def test_a_required_call_is_made(walker: Walker, seed: int, several: bool) -> None:
    guide = walker.maker.guide(tools=TOOLS, tool_choice="required", parallel_tool_calls=several, thinking=False)
    text = walker.walk(guide, seed)
    assert text.startswith('<tool_calls>\n{"name": "')
    assert text.endswith("}\n</tool_calls>")
    calls = called(text)
    assert len(calls) == len(text.splitlines()) - 2
    assert len(calls) >= 1 if several else len(calls) == 1


def test_several_calls_may_be_made(walker: Walker) -> None:
    guide = walker.maker.guide(tools=TOOLS, tool_choice="required", thinking=False)
    line = '{"name": "ping", "arguments": {}}\n'
    assert len(called(walker.walk(guide, start="<tool_calls>\n" + 2 * line + "</tool_calls>"))) == 2
    one = walker.maker.guide(tools=TOOLS, tool_choice="required", thinking=False, parallel_tool_calls=False)
    with pytest.raises(AssertionError):
        walker.walk(one, start="<tool_calls>\n" + 2 * line)


@pytest.mark.parametrize("seed", range(3))
def test_a_named_tool_is_the_one_called(walker: Walker, seed: int) -> None:
    guide = walker.maker.guide(tools=TOOLS, tool_choice="get_weather", parallel_tool_calls=False, thinking=False)
    assert [call.name for call in called(walker.walk(guide, seed))] == ["get_weather"]


def test_forced_calls_are_written_with_the_ids_that_the_model_uses(walker: Walker) -> None:
    guide: Any = walker.maker.guide(tools=[PING], tool_choice="ping", parallel_tool_calls=False, thinking=False)
    ids: list[int] = []
    over = False
    while not over:
        for id in guide.forced() or np.flatnonzero(guide.mask())[:1].tolist():
            ids.append(id)
            over = guide.accept(id)
    text = '<tool_calls>\n{"name": "ping", "arguments": {}}\n</tool_calls>'
    assert walker.tokenizer.decode(ids) == text
    if "<tool_calls>" in walker.tokenizer.added_tokens:
        assert ids == walker.tokenizer.encode(text)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), start=st.sampled_from(["", "Well, ", "a < b <tool\n\n", "<tool_cal "]))
def test_free_text_is_free_until_a_block_opens_which_is_then_valid(walker: Walker, seed: int, start: str) -> None:
    guide = walker.maker.guide(tools=TOOLS, strict_auto=True, thinking=False)
    reply = walker.walk(guide, seed, start=start + "<tool_calls>")
    assert reply.startswith(start)
    assert called(reply.removeprefix(start))


def test_a_block_opened_by_other_ids_is_one_too(walker: Walker) -> None:
    guide: Any = walker.maker.guide(tools=TOOLS, strict_auto=True, thinking=False)
    for id in walker.tokenizer.encode("so <tool_calls>", split_special=True):
        assert guide.mask() is None or guide.mask()[id]
        assert not guide.accept(id)
    assert called("<tool_calls>" + walker.walk(guide))


def test_free_text_may_end_anywhere(walker: Walker) -> None:
    guide: Any = walker.maker.guide(tools=TOOLS, strict_auto=True, thinking=False)
    for id in walker.tokenizer.encode("Hello there."):
        assert guide.mask() is None
        assert guide.forced() == ()
        assert not guide.accept(id)


@pytest.mark.parametrize("seed", range(6))
def test_a_form_beside_tools_holds_for_what_calls_nothing(walker: Walker, seed: int) -> None:
    schema = {"type": "integer", "minimum": 1, "maximum": 50}
    text = walker.walk(walker.maker.guide(json=schema, tools=TOOLS, thinking=False), seed)
    assert called(text) if text.startswith("<") else fits(json.loads(text), schema)
    assert walker.takes(walker.maker.guide(json=schema, tools=TOOLS, thinking=False), "17")
    assert called(walker.walk(walker.maker.guide(json=schema, tools=TOOLS, thinking=False), start="<tool_calls>\n"))


def test_text01_has_its_own_way_to_call(small: MiniMaxM1Tokenizer) -> None:
    template = "<beginning_of_sentence>system function_setting=functions\n"
    walker = Walker(MiniMaxM1Tokenizer(small.backend, {"eos_token": small.eos_token, "chat_template": template}))
    text = walker.walk(walker.maker.guide(tools=TOOLS, tool_choice="required", thinking=False), 3)
    assert text.startswith("<function_call>```typescript\nfunctions.")
    assert text.endswith(")\n```")
    assert called(text)
    free = walker.maker.guide(tools=TOOLS, strict_auto=True, thinking=False)
    assert called(walker.walk(free, 4, start="<function_call>"))


def test_one_maker_serves_guides_that_do_not_meet(walker: Walker) -> None:
    guides = [walker.maker.guide(choice=["red", "green"], thinking=False) for _ in range(2)]
    first = walker.walk(guides[0], start="red")
    assert (first, walker.walk(guides[1], start="green")) == ("red", "green")
