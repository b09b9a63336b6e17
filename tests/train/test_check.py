"""Lines of the user's own: every kind is read, and whatever is wrong is named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.check import check
from minimax_m1.train.kinds import encode_line, read_line

ASK = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def learned(tokenizer: MiniMaxM1Tokenizer, value: Any) -> list[str]:
    texts = encode_line(read_line(written(value)), tokenizer, 1000)
    return [str(tokenizer.decode([token for token, mask in zip(*text, strict=True) if mask])) for text in texts]


# Kinds -------------------------------------------------------------------------------------------


def test_a_text_is_learned_whole_and_ended(tokenizer: MiniMaxM1Tokenizer) -> None:
    assert learned(tokenizer, {"text": "one two"}) == ["one two<end_of_sentence>"]


def test_a_long_text_is_cut_so_that_each_token_is_predicted_once(tokenizer: MiniMaxM1Tokenizer) -> None:
    line = read_line(written({"text": "the quick brown fox " * 40}))
    ((whole, _),) = encode_line(line, tokenizer, 10_000)
    for length in (2, 7, 64, len(whole) - 1, len(whole), len(whole) + 1):
        windows = [ids for ids, _ in encode_line(line, tokenizer, length)]
        assert all(2 <= len(ids) <= length for ids in windows)
        assert whole[:1] + [token for ids in windows for token in ids[1:]] == whole


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [ASK, ANSWER]},
        {"messages": [ASK, ANSWER], "tools": None, "text": None},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        {"prompt": "hi", "answer": "yes"},
        {"prompt": "hi", "completion": "yes"},
        {"prompt": [ASK], "completion": [ANSWER]},
        {"prompt": "unread", "messages": [ASK, ANSWER]},
    ],
)
def test_every_kind_of_chat_gives_the_same_tokens(tokenizer: MiniMaxM1Tokenizer, line: Any) -> None:
    ((ids, said),) = encode_line(read_line(written(line)), tokenizer, 1000)
    assert (ids, said) == encode_chat(tokenizer, [ASK, ANSWER], add_generation_prompt=False, with_mask=True)


def test_tools_and_calls_in_both_spellings(tokenizer: MiniMaxM1Tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat: list[dict[str, Any]] = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    chat += [{"role": "tool", "tool_call_id": "c", "content": "2"}, ANSWER]
    expected = encode_chat(tokenizer, chat, [tool], add_generation_prompt=False)
    plain = {**CALL, "function": {"name": "f", "arguments": {"x": 1}}}
    again = [ASK, {"role": "assistant", "tool_calls": [plain]}, *chat[2:]]
    for messages, tools in ((chat, [tool]), (again, [tool]), (again, json.dumps([tool]))):
        line = read_line(written({"messages": messages, "tools": tools}))
        assert encode_line(line, tokenizer, 1000)[0][0] == expected
        assert line.learned == (1, 3)
    said = learned(tokenizer, {"messages": chat})[0]
    assert said.startswith('<tool_calls>\n{"name": "f", "arguments": {"x": 1}}\n</tool_calls>')


def test_sharegpt_with_a_system_and_calls() -> None:
    turns = [
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "yes", "weight": 0},
    ]
    line = read_line(written({"conversations": turns, "system": "be kind", "id": 7}))
    assert [message["role"] for message in line.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert line.messages[2]["tool_calls"][0]["arguments"] == {"x": 1}
    assert (line.learned, line.unread) == ((2,), ("id",))


def test_weight_0_and_a_prompts_own_answers_are_not_learned(tokenizer: MiniMaxM1Tokenizer) -> None:
    unlearned = {"role": "assistant", "content": "no", "weight": 0}
    assert learned(tokenizer, {"messages": [ASK, unlearned, ASK, ANSWER]}) == ["yes<end_of_sentence>"]
    assert learned(tokenizer, {"prompt": [ASK, ANSWER, ASK], "answer": "sure"}) == ["sure<end_of_sentence>"]


def test_thoughts_come_from_their_field_or_from_tags(tokenizer: MiniMaxM1Tokenizer) -> None:
    for answer in (
        {"role": "assistant", "content": "yes", "reasoning_content": "well"},
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nyes"},
    ):
        assert learned(tokenizer, {"messages": [ASK, answer]}) == ["<think>\nwell\n</think>\n\nyes<end_of_sentence>"]


def test_names_of_special_tokens_stay_text(tokenizer: MiniMaxM1Tokenizer) -> None:
    eos = tokenizer.token_to_id("<end_of_sentence>")
    assert eos is not None
    for line in ({"text": "a<end_of_sentence>b"}, {"prompt": "a<end_of_sentence>b", "answer": "<end_of_sentence>"}):
        ((ids, said),) = encode_line(read_line(written(line)), tokenizer, 1000)
        assert [token for token, mask in zip(ids, said, strict=True) if mask].count(eos) == 1


# Faults ------------------------------------------------------------------------------------------

FAULTS: list[tuple[Any, str]] = [
    (b'{"text": "a"', "broken JSON at column 13: expecting ',' delimiter"),
    (b'{"text": "a"} x', "broken JSON at column 15: extra data"),
    (b'{"text": "a', "broken JSON at column 10: unterminated string"),
    (b'{"text": NaN}', "broken JSON: NaN is no JSON number"),
    (b'{"text": "caf\xe9"}', "byte 14 is not UTF-8"),
    (b"[" * 100_000, "the JSON nests too deeply"),
    (b'{"text": %s}' % (b"1" * 5000), "a number of more than 4300 digits"),
    ([1], "a line must be a JSON object, got list"),
    ({}, "the keys tell no kind of line: none; there are text, messages, conversations, prompt"),
    ({"body": "x", "title": "y"}, "the keys tell no kind of line: body, title; there are text,"),
    ({"text": "a", "messages": []}, "a line has one of text and messages, not both"),
    ({"text": 3}, "text must be a string, got 3"),
    ({"text": " \n"}, "text is empty"),
    ({"text": "\ud800"}, "text holds a lone surrogate at character 0"),
    ({"prompt": "a"}, "prompt has neither answer nor completion beside it"),
    ({"prompt": "a", "answer": "b", "completion": "c"}, "one of answer and completion, not both"),
    ({"prompt": "a", "answer": ""}, "answer is empty"),
    ({"prompt": "a", "answer": 5}, "answer must be a string, got 5"),
    ({"messages": "a"}, "messages must be a list, got 'a'"),
    ({"messages": []}, "messages is empty"),
    ({"messages": [ASK, "yes"]}, "messages[1] must be an object, got 'yes'"),
    ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role must be one of system,"),
    ({"messages": [{"role": "user", "content": 5}, ANSWER]}, "messages[0].content must be a string or a list of parts"),
    ({"messages": [ASK]}, "there is no assistant message to learn from"),
    ({"messages": [ASK, {**ANSWER, "weight": 0}]}, "there is no assistant message to learn from"),
    ({"messages": [ASK, {**ANSWER, "weight": 2}]}, "messages[1].weight must be 0 or 1, got 2"),
    ({"messages": [ASK, {**ANSWER, "content": ""}]}, "messages[1] is an assistant message that says nothing"),
    (
        {"messages": [ASK, {**ANSWER, "tool_calls": [{"function": {"name": "f"}}]}]},
        "messages[1].tool_calls[0] has no arguments",
    ),
    (
        {"messages": [ASK, {**ANSWER, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}]},
        "messages[1].tool_calls[0].arguments must be a JSON object, got '{x'",
    ),
    ({"messages": [ASK, ANSWER], "tools": [5]}, "tools[0] must be an object with a name, got 5"),
    ({"messages": [ASK, ANSWER], "tools": "x"}, "tools must be a list, or one written as JSON, got 'x'"),
    ({"conversations": [{"from": "bot", "value": "a"}]}, "conversations[0].from must be one of system, human,"),
    ({"conversations": [{"from": "gpt", "value": 1}]}, "conversations[0].value must be a string, got 1"),
    ({"conversations": [{"from": "function_call", "value": "f()"}]}, "conversations[0].value must be a call as JSON"),
    ({"messages": [ASK, {**ANSWER, "content": "yes " * 300}]}, "tokens long, the window is 200"),
]


@pytest.mark.parametrize(("line", "says"), FAULTS, ids=[says[:40] for _, says in FAULTS])
def test_a_fault_is_named_with_file_and_line(
    tmp_path: Path, tokenizer: MiniMaxM1Tokenizer, line: Any, says: str
) -> None:
    path = tmp_path / "chats.jsonl"
    raw = line if isinstance(line, bytes) else written(line)
    path.write_bytes(written({"text": "good"}) + b"\n\n" + raw + b"\n" + written({"messages": [ASK, ANSWER]}))
    report = check([path], tokenizer, 200)
    (fault,) = report.faults
    assert fault.startswith(f"{path}:3: ") and says in fault and "\n" not in fault
    assert len(fault) < len(str(path)) + 250
    assert (report.lines, report.bad, report.more) == (2, frozenset({f"{path}:3"}), 0)


def test_a_template_that_refuses_two_system_messages_is_quoted(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    template = "{% if messages[1].role == 'system' %}{{ raise_exception('one system message only') }}{% endif %}"
    strict = MiniMaxM1Tokenizer(tokenizer.backend, {"chat_template": template, "eos_token": "<end_of_sentence>"})
    path = tmp_path / "chats.jsonl"
    system = {"role": "system", "content": "be kind"}
    path.write_bytes(written({"messages": [system, system, ASK, ANSWER]}))
    (fault,) = check([path], strict, 200).faults
    assert fault == f"{path}:1: the chat template refuses these messages: one system message only"


def test_whole_files_that_cannot_be_used(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n  \r\n")
    report = check([tmp_path / "none.jsonl", tmp_path, empty], tokenizer, 200)
    assert report.faults == (
        f"{tmp_path / 'none.jsonl'}: there is no such file",
        f"{tmp_path}: is a folder; name the files in it",
        f"{empty}: the file is empty",
    )
    assert report.unusable == (tmp_path / "none.jsonl", tmp_path, empty) and report.lines == 0


# The report --------------------------------------------------------------------------------------


def test_a_report_counts_lines_tokens_kinds_and_keys(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = [{"text": "one two", "url": "x"}, {"prompt": "hi", "answer": "yes"}, {"messages": [ASK, ANSWER], "url": ""}]
    lines += [{"messages": [{**ASK, "mood": 1}, {**ANSWER, "mood": 2}]}]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(map(written, lines)))
    seen: list[int] = []
    report = check([path], tokenizer, 200, seen.append)
    texts = [text for line in lines for text in encode_line(read_line(written(line)), tokenizer, 200)]
    assert (report.lines, report.documents) == (4, 4)
    assert report.tokens == sum(len(ids) for ids, _ in texts)
    assert report.said == sum(sum(said) for _, said in texts)
    assert report.longest == max(len(ids) for ids, _ in texts)
    assert report.kinds == {"text": 1, "prompt": 1, "messages": 2}
    assert report.unread == {"url": 2, "messages.mood": 1}
    assert sum(seen) == path.stat().st_size - 3


def test_twenty_faults_are_spelled_out_and_the_rest_counted(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("{\n" * 33 + '{"text": "good"}\n')
    report = check([path], tokenizer, 200)
    assert (len(report.faults), report.more, len(report.bad), report.lines) == (20, 13, 33, 1)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "text messages conversations prompt answer tools role content from value tool_calls function name "
                "arguments weight reasoning_content tool_call_id type".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(json_values)
def test_any_json_is_read_or_refused(tokenizer: MiniMaxM1Tokenizer, value: Any) -> None:
    try:
        texts = encode_line(read_line(written(value)), tokenizer, 200)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert all(len(ids) == len(said) and any(said) for ids, said in texts)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        read_line(raw)
    except DataError as error:
        assert "\n" not in str(error)
