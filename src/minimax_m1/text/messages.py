"""The messages of a chat, checked and brought into one shape before any template sees them.

In: what a caller sent, in OpenAI's or the published shape. Out: plain dictionaries whose `content` is a
string (tool results may be a list of named parts) and whose tool arguments are JSON values,
or a RequestError that names the message at fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minimax_m1.errors import RequestError

Message = dict[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def checked_messages(messages: Any) -> list[Message]:
    """Messages in one shape; raises RequestError (`param` "messages") where they are malformed."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise _refused(f"must be a list, got {type(messages).__name__}")
    if not messages:
        raise _refused("must hold at least one message, got none")
    return [_checked(message, f"[{i}]") for i, message in enumerate(messages)]


def checked_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tool definitions without OpenAI's wrapping, or None; raises RequestError (`param` "tools").

    `strict` is left out: it is between client and server, and the model has never read it.
    """
    if not tools:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise RequestError(f"tools must be a list, got {type(tools).__name__}", param="tools")
    bare = []
    for i, tool in enumerate(tools):
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RequestError(f"tools[{i}] must be an object with a name, got {_short(tool)}", param="tools")
        bare.append({key: value for key, value in inner.items() if key != "strict"})
    return bare


def map_text(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON value with every string in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_text(key, change): map_text(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_text(item, change) for item in value]
    return value


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise _refused(f"{where} must be an object, got {_short(message)}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _refused(f"{where}.role must be one of {', '.join(_ROLES)}, got {_short(role)}")
    role = _ROLES[role]
    content = message.get("content")
    if role == "tool":
        result: Message = {"role": role, "content": _tool_content(content, f"{where}.content")}
        for key in ("name", "tool_call_id"):
            if message.get(key) is not None:
                result[key] = _string(message[key], f"{where}.{key}")
        return result
    if content is None and role == "assistant":
        content = ""
    result = {"role": role, "content": _text(content, f"{where}.content")}
    if role == "assistant":
        _add_thought(result, message, where)
        if message.get("tool_calls"):
            result["tool_calls"] = _calls(message["tool_calls"], f"{where}.tool_calls")
    return result


def _add_thought(result: Message, message: Mapping[str, Any], where: str) -> None:
    """Takes the thought from its own field, or from tags at the head of the content."""
    thought = message.get("reasoning_content")
    if thought is None:
        thought = message.get("reasoning")
    if thought is None and result["content"].startswith("<think>") and "</think>" in result["content"]:
        thought, _, rest = result["content"].removeprefix("<think>").partition("</think>")
        thought, result["content"] = thought.removeprefix("\n").removesuffix("\n"), rest.lstrip("\n")
    if thought:
        result["reasoning_content"] = _string(thought, f"{where}.reasoning_content")


def _text(content: Any, where: str) -> str:
    """A string, or the text of all parts of a list, joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise _refused(f"{where} must be a string or a list of parts, got {_short(content)}")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _refused(f"{where}[{i}] must be a text part, got {_short(part)}")
        texts.append(part["text"])
    return "".join(texts)


def _tool_content(content: Any, where: str) -> str | list[dict[str, str]]:
    """One result as a string, or the published list of named parts."""
    text = _text(content, where)
    if isinstance(content, str) or not any("name" in part for part in content):
        return text
    return [
        {"type": "text", "text": part["text"], "name": _string(part.get("name", ""), f"{where}[{i}].name")}
        for i, part in enumerate(content)
    ]


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as {id?, name, arguments}, arguments as JSON values where they are JSON."""
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise _refused(f"{where} must be a list, got {_short(calls)}")
    plain = []
    for i, call in enumerate(calls):
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise _refused(f"{where}[{i}] must be an object with a name, got {_short(call)}")
        arguments = inner.get("arguments")
        if isinstance(arguments, str):
            arguments = _parsed(arguments)
        plain.append({"id": call.get("id"), "name": inner["name"], "arguments": arguments})
    return plain


def _parsed(arguments: str) -> Any:
    """Arguments as a JSON value; what is no JSON stays text, on one line since a line is a call."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments.replace("\n", " ")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _refused(f"{where} must be a string, got {_short(value)}")
    return value


def _refused(what: str) -> RequestError:
    return RequestError(f"messages{'' if what.startswith('[') else ' '}{what}", param="messages")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
