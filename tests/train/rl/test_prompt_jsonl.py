"""The user's rows as prompts: each once an epoch, its other keys as columns, and what is wrong by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.prompt import Prompt, PromptSource
from minimax_m1.train.rl.prompt_jsonl import JsonlPrompts, check_prompts, read_row

ASK = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
TOOL = {"name": "f", "description": "does f", "parameters": {"type": "object", "properties": {}}}


def read(value: Any) -> tuple[Any, Any, Any]:
    return read_row(json.dumps(value).encode())


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(prompt: Prompt) -> str:
    assert not isinstance(prompt.asked, str)
    return str(prompt.asked[-1]["content"])


# Rows --------------------------------------------------------------------------------------------


def test_a_text_is_asked_by_a_user_and_other_keys_are_columns() -> None:
    asked, tools, columns = read({"prompt": "2 + 2", "answer": "4", "hard": None, "meta": {"x": [1, None]}})
    assert asked == ({"role": "user", "content": "2 + 2"},)
    assert tools == ()
    assert columns == {"answer": "4", "meta": {"x": [1, None]}}  # an empty cell is no column


def test_messages_may_be_the_prompt() -> None:
    for key in ("prompt", "messages"):
        asked, _, columns = read({key: [{"role": "system", "content": "short"}, ASK], "completion": "x"})
        assert [message["role"] for message in asked] == ["system", "user"]
        assert columns == {"completion": "x"}


def test_a_last_assistant_message_becomes_the_reference() -> None:
    asked, _, columns = read({"messages": [ASK, ANSWER, ASK, ANSWER], "id": 3})
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert columns == {"id": 3, "reference": "yes"}


@pytest.mark.parametrize("wrapped", [TOOL, {"type": "function", "function": TOOL}])
def test_tools_are_bare_and_may_be_written_as_json(wrapped: dict[str, Any]) -> None:
    for tools in ([wrapped], json.dumps([wrapped])):
        assert read({"prompt": "x", "tools": tools})[1:] == ((TOOL,), {})
    assert read({"prompt": "x", "tools": ""})[1] == ()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "x", "answer": "y"}, "the keys tell no prompt: answer, question; a row has prompt or messages"),
        ({}, "the keys tell no prompt: none; a row has prompt or messages"),
        ({"prompt": None}, "the keys tell no prompt: none; a row has prompt or messages"),
        ({"prompt": "x", "messages": [ASK]}, "a row has one of prompt and messages, not both"),
        ({"prompt": 3}, "prompt must be a string, got 3"),
        ({"prompt": " "}, "prompt is empty"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hi"}, "messages must be a string"),
        ({"messages": [ANSWER]}, "messages has nothing before the assistant's message"),
        ({"messages": [ASK, ANSWER], "reference": "no"}, "a row has one of reference and a last assistant message, "),
        ({"messages": [ASK, ANSWER, ANSWER]}, r"the prompt ends with an assistant message, messages\[1\]"),
        ({"prompt": [ASK, ANSWER]}, r"the prompt ends with an assistant message, messages\[1\]"),
        ({"prompt": [{"role": "bot", "content": "x"}]}, r"messages\[0\]\.role must be one of system"),
        ({"prompt": ["x"]}, r"prompt\[0\] must be an object, got 'x'"),
        ({"prompt": "x", "tools": "{"}, "tools must be a list, or one written as JSON, got '{'"),
        ({"prompt": "x", "tools": [{"x": 1}]}, r"tools\[0\] must be an object with a name"),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}, ASK]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments must be a JSON object, got 'x'",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_one_clause(row: dict[str, Any], what: str) -> None:
    if row.get("messages") == "hi":
        assert read(row)[0] == (ASK,)  # a text is a user's, whichever key it has
        return
    with pytest.raises(DataError, match=f"^{what}"):
        read(row)


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text() | st.lists(st.text()), max_size=4))
def test_whatever_a_row_holds_is_read_or_refused(row: dict[str, Any]) -> None:
    try:
        asked, _, columns = read(row | {"prompt": "x"})
    except DataError:
        return
    assert asked == ({"role": "user", "content": "x"},)
    assert columns == {key: value for key, value in row.items() if value is not None and key not in ("prompt", "tools")}


# Draws -------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    first = write(tmp_path / "first.jsonl", [{"prompt": f"first {n}", "answer": n} for n in range(7)])
    second = tmp_path / "second.jsonl"
    rows = [json.dumps({"messages": [{"role": "user", "content": f"second {n}"}], "answer": n}) for n in range(5)]
    second.write_bytes(b"\xef\xbb\xbf" + "\r\n  \r\n".join(rows).encode())  # a BOM, CRLF, blank lines, an open end
    return [first, second]


def test_an_epoch_gives_every_row_once_in_an_order_of_its_own(files: list[Path], tokenizer: MiniMaxM1Tokenizer) -> None:
    source: PromptSource = JsonlPrompts(files, tokenizer, 0, 100)
    assert JsonlPrompts(files, tokenizer, 0, 100).rows == 12
    epochs = [[said(source.draw(12 * epoch + n, 0)) for n in range(12)] for epoch in range(4)]
    everything = sorted([f"first {n}" for n in range(7)] + [f"second {n}" for n in range(5)])
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert said(source.draw(3, 0)) == epochs[0][3]  # an early epoch again, after later ones
    other = JsonlPrompts(files, tokenizer, 1, 100)
    assert [said(other.draw(n, 0)) for n in range(12)] != epochs[0]


def test_prompts_say_where_they_come_from_and_what_goes_with_them(
    files: list[Path], tokenizer: MiniMaxM1Tokenizer
) -> None:
    source = JsonlPrompts(files, tokenizer, 0, 100, name="mine")
    drawn = {said(prompt): prompt for prompt in (source.draw(n, 0) for n in range(12))}
    assert drawn["first 4"].place == f"{files[0]}:5"
    assert drawn["second 0"].place == f"{files[1]}:1"
    assert drawn["second 3"].place == f"{files[1]}:7"  # blank lines are counted and skipped
    prompt = drawn["second 3"]
    assert (prompt.source, prompt.level, prompt.columns) == ("mine", 0, {"answer": 3})
    assert prompt.ids == encode_chat(tokenizer, [{"role": "user", "content": "second 3"}])


def test_tools_stand_in_the_prompt(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "tools": [TOOL]}])
    prompt = JsonlPrompts([path], tokenizer, 0, 1000).draw(0, 0)
    assert prompt.tools == (TOOL,)
    assert prompt.ids == encode_chat(tokenizer, [{"role": "user", "content": "x"}], [TOOL])


def test_tools_of_an_environment_stand_in_every_prompt(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    mine, other = {**TOOL, "description": "does more"}, {**TOOL, "name": "g"}
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "tools": [TOOL, other]}])
    prompt = JsonlPrompts([path], tokenizer, 0, 1000, tools=[mine]).draw(0, 0)
    assert prompt.tools == (mine, other)
    assert prompt.ids == encode_chat(tokenizer, [{"role": "user", "content": "x"}], [mine, other])
    assert check_prompts([path], tokenizer, 1000, tools=[mine]).longest == len(prompt.ids)


def test_a_row_that_goes_bad_later_is_named(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "one"}])
    source = JsonlPrompts([path], tokenizer, 0, 100)
    path.write_text('{"prompt": "on\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: broken JSON at column 12"):
        source.draw(0, 0)
    path.write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl:1: the line is gone"):
        source.draw(0, 0)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl:1: cannot be read any more \(No such file"):
        source.draw(0, 0)


def test_files_without_a_row_are_refused(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "one"}])
    with pytest.raises(DataError, match="no file: there is no line to learn from"):
        JsonlPrompts([], tokenizer, 0, 100)
    with pytest.raises(DataError, match=r"a\.jsonl: there is no line to learn from"):
        JsonlPrompts([path], tokenizer, 0, 100, skip={f"{path}:1"})
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such file"):
        JsonlPrompts([tmp_path / "none.jsonl"], tokenizer, 0, 100)


# The check ---------------------------------------------------------------------------------------


def test_the_check_names_every_bad_row_and_counts_the_good(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    long = " ".join("abc" for _ in range(300))
    lines = ['{"prompt": "one", "answer": 1}', "", "{", '{"prompt": "two", "answer": 2, "hint": "x"}', "3"]
    path.write_bytes("\r\n".join([*lines, json.dumps({"prompt": long, "answer": 3}), '{"answer": 3}']).encode())
    length = len(encode_chat(tokenizer, [{"role": "user", "content": long}]))
    read: list[int] = []
    report = check_prompts([path, tmp_path / "none.jsonl"], tokenizer, length - 1, read.append)
    assert report.faults == (
        f"{path}:3: broken JSON at column 2: expecting property name enclosed in double quotes",
        f"{path}:5: a line must be a JSON object, got int",
        f"{path}:6: the prompt is {length} tokens long, the most is {length - 1}",
        f"{path}:7: the keys tell no prompt: answer; a row has prompt or messages",
        f"{tmp_path / 'none.jsonl'}: there is no such file",
    )
    assert (report.rows, report.more, report.unusable) == (2, 0, (tmp_path / "none.jsonl",))
    assert (report.columns, report.partial) == (frozenset({"answer"}), frozenset({"hint"}))
    assert report.longest == len(encode_chat(tokenizer, [{"role": "user", "content": "two"}]))
    assert sum(read) == path.stat().st_size - len(b"\r\n")  # of the blank line
    source = JsonlPrompts([path], tokenizer, 0, length - 1, skip=report.bad)
    assert {said(source.draw(n, 0)) for n in range(source.rows)} == {"one", "two"}
    assert check_prompts([path], tokenizer, length).rows == 3  # a prompt of just so many tokens fits


def test_the_check_shows_twenty_faults_and_counts_the_others(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    report = check_prompts([write(tmp_path / "a.jsonl", [{}] * 25)], tokenizer, 100)
    assert (len(report.faults), report.more, len(report.bad), report.rows) == (20, 5, 25, 0)
    assert (report.columns, report.partial, report.longest) == (frozenset(), frozenset(), 0)
