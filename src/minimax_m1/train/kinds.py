"""The kinds of JSONL line that a user may train on, told apart by their keys.

In: the bytes of a line. Out: a checked `Line`, and its texts as ids (`encode_line`). What is wrong is a DataError of
one short clause without the file's name, which the caller puts in front.

    {"text": "..."}                                       all of it is learned; cut where longer than the window
    {"messages": [...], "tools": [...]}                   OpenAI's; `weight: 0` marks what is not to be learned
    {"conversations": [{"from": "...", "value": "..."}]}  ShareGPT's, with `system` and `tools` if need be
    {"prompt": "...", "answer": "..."}                    or `completion`; each of them text or messages
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimax_m1.errors import DataError, RequestError
from minimax_m1.text.messages import Message, checked_messages, checked_tools
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.conversation import Text, conversation_texts

KINDS = ("text", "messages", "conversations", "prompt")
_READ = {
    "text": {"text"},
    "messages": {"messages", "tools"},
    "conversations": {"conversations", "system", "tools"},
    "prompt": {"prompt", "answer", "completion", "tools"},
}
_MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "weight"}
_SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "function_call": "assistant",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a line holds: a text, or messages with the indices of those to learn. `unread` are keys nobody reads."""

    kind: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    learned: tuple[int, ...] = ()
    unread: tuple[str, ...] = ()


def read_line(raw: bytes) -> Line:
    """The line, checked; raises DataError."""
    value = parsed_line(raw)
    kind = _kind(value)
    unread = sorted(value.keys() - _READ[kind])
    if kind == "text":
        return Line(kind=kind, text=_full(value["text"], "text"), unread=tuple(unread))
    try:
        messages, given = _messages(kind, value)  # `given` of them are the prompt, which is not learned
        checked, tools = checked_messages(messages), checked_tools(written_tools(value.get("tools")))
    except RequestError as error:
        raise DataError(str(error)) from None
    unread += sorted({f"messages.{key}" for message in messages for key in message.keys() - _MESSAGE})
    learned = []
    for index, (message, one) in enumerate(zip(messages, checked, strict=True)):
        weight = message.get("weight", 1)
        if type(weight) not in (int, float) or weight not in (0, 1):
            raise DataError(f"messages[{index}].weight must be 0 or 1, got {weight!r:.80}")
        if one["role"] != "assistant":
            continue
        check_calls(one.get("tool_calls", ()), index)
        if weight and index >= given:
            if not (one["content"].strip() or one.get("tool_calls") or one.get("reasoning_content")):
                raise DataError(f"messages[{index}] is an assistant message that says nothing")
            learned.append(index)
    if not learned:
        raise DataError("there is no assistant message to learn from")
    return Line(
        kind=kind,
        messages=tuple(checked),
        tools=tuple(tools or ()),
        learned=tuple(learned),
        unread=tuple(unread),
    )


def encode_line(line: Line, tokenizer: MiniMaxM1Tokenizer, length: int) -> list[Text]:
    """The line's texts of at most `length` tokens; a plain text is cut so that each token is predicted once.

    Names of special tokens in a line stay ordinary text. Raises DataError: a conversation is longer, or the
    tokenizer or its template refuses the line.
    """
    try:
        if line.kind == "text":
            if tokenizer.eos_token_id is None:
                raise DataError("the tokenizer names no eos token to end a text with")
            ids = [*tokenizer.encode(line.text, split_special=True), tokenizer.eos_token_id]
            assert length > 1
            starts = range(0, max(len(ids) - 1, 1), length - 1)
            return [(window, [1] * len(window)) for window in (ids[start : start + length] for start in starts)]
        texts = list(conversation_texts(tokenizer, line.messages, line.tools or None, line.learned))
    except RequestError as error:
        raise DataError(str(error)) from None
    longest = max(len(ids) for ids, _ in texts)
    if longest > length:
        raise DataError(f"the conversation is {longest} tokens long, the window is {length}")
    return texts


def parsed_line(raw: bytes) -> dict[str, Any]:
    """A line's JSON object without its nulls, which are a table's empty cells; raises DataError."""
    try:
        value = json.JSONDecoder(parse_constant=_no_number).decode(raw.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise DataError(f"broken JSON at column {error.colno}: {what[:1].lower()}{what[1:]}") from None
    except RecursionError:
        raise DataError("the JSON nests too deeply") from None
    except ValueError:  # Python's limit
        raise DataError("the JSON holds a number of more than 4300 digits") from None
    if not isinstance(value, dict):
        raise DataError(f"a line must be a JSON object, got {type(value).__name__}")
    return {key: item for key, item in value.items() if item is not None}


def written_messages(value: Any, role: str, where: str) -> list[Mapping[str, Any]]:
    """Messages as they were written, or a text as one message of `role`; raises DataError."""
    if isinstance(value, list):
        return _objects(value, where)
    return [_said(role, value, where)]


def written_tools(tools: Any) -> Any:
    """Tools as they are, or out of a string of JSON, as tables hold them; raises DataError."""
    if not isinstance(tools, str):
        return tools
    try:
        return json.loads(tools or "[]")
    except (ValueError, RecursionError):
        raise DataError(f"tools must be a list, or one written as JSON, got {tools!r:.80}") from None


def check_calls(calls: Sequence[Mapping[str, Any]], message: int) -> None:
    """Raises DataError where a call of the message at this index has no object of arguments."""
    for index, call in enumerate(calls):
        where, arguments = f"messages[{message}].tool_calls[{index}]", call["arguments"]
        if arguments is None:
            raise DataError(f"{where} has no arguments")
        if not isinstance(arguments, dict):
            raise DataError(f"{where}.arguments must be a JSON object, got {arguments!r:.80}")


def _no_number(name: str) -> None:
    raise DataError(f"broken JSON: {name} is no JSON number")


def _kind(value: Mapping[str, Any]) -> str:
    kinds = [kind for kind in KINDS if kind in value]
    if "prompt" in kinds and not value.keys() & {"answer", "completion"}:
        kinds.remove("prompt")
        if not kinds:
            raise DataError("prompt has neither answer nor completion beside it")
    if not kinds:
        keys = ", ".join(sorted(value)) or "none"
        raise DataError(f"the keys tell no kind of line: {keys:.80}; there are text, messages, conversations, prompt")
    if len(kinds) > 1:
        raise DataError(f"a line has one of {' and '.join(kinds)}, not both")
    return kinds[0]


def _messages(kind: str, value: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """Messages as they were written, or in OpenAI's shape; and how many of them are the prompt's."""
    if kind == "conversations":
        return _sharegpt(value), 0
    if kind == "messages":
        return _objects(value["messages"], "messages"), 0
    if "answer" in value and "completion" in value:
        raise DataError("a line has one of answer and completion, not both")
    name = "answer" if "answer" in value else "completion"
    prompt, answer = value["prompt"], value[name]
    asked, said = written_messages(prompt, "user", "prompt"), written_messages(answer, "assistant", name)
    return [*asked, *said], len(asked)


def _said(role: str, text: Any, where: str) -> dict[str, Any]:
    return {"role": role, "content": _full(text, where)}


def _full(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where} must be a string, got {text!r:.80}")
    if not text.strip():
        raise DataError(f"{where} is empty")
    return text


def _objects(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list, got {value!r:.80}")
    if not value:
        raise DataError(f"{where} is empty")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise DataError(f"{where}[{index}] must be an object, got {item!r:.80}")
    return value


def _sharegpt(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = []
    if "system" in value:
        messages.append(_said("system", value["system"], "system"))
    for index, turn in enumerate(_objects(value["conversations"], "conversations")):
        where, speaker, text = f"conversations[{index}]", turn.get("from"), turn.get("value")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise DataError(f"{where}.from must be one of {', '.join(_SPEAKERS)}, got {speaker!r:.80}")
        if not isinstance(text, str):
            raise DataError(f"{where}.value must be a string, got {text!r:.80}")
        message = {key: item for key, item in turn.items() if key not in ("from", "value")}
        message |= {"role": _SPEAKERS[speaker], "content": text}
        if speaker == "function_call":
            message |= {"content": "", "tool_calls": _written_calls(text, where)}
        messages.append(message)
    return messages


def _written_calls(text: str, where: str) -> list[Any]:
    """One call or a list of calls, written as JSON."""
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where}.value must be a call as JSON, got {text!r:.80}") from None
    return calls if isinstance(calls, list) else [calls]
