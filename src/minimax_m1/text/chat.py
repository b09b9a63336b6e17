"""Messages -> prompt: the chat template rendered, encoded, and masked for training.

In: messages in OpenAI's or the published shape, tool definitions, a template. Out: the prompt as text
(`render`) or ids (`encode_chat`). Text inside messages can never become a special token of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, overload

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minimax_m1.errors import RequestError, TokenizerError
from minimax_m1.text.messages import Message, checked_messages, checked_tools, map_text
from minimax_m1.text.vocabulary import BEGIN_OF_DOCUMENT, VISIBLE

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

# How the published templates read content: the first part of a list, whatever else there is.
_FIRST_PART_ONLY = "message['content'][0]['text']"
_ANSWER_HEADER = re.compile(r"ai name=[^\n]*\n")


@lru_cache(maxsize=1)
def chat_template() -> str:
    """The published M1 format without the published template's faults, as a Jinja template."""
    return (files("minimax_m1.text") / "chat_template.jinja").read_text("utf-8")


def repaired(template: str | None) -> str:
    """`template` itself, or ours where there is none or it is the published one, faults and all."""
    if template is None or (BEGIN_OF_DOCUMENT in template and _FIRST_PART_ONLY in template):
        return chat_template()
    return template


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    template: str | None = None,
) -> str:
    """The prompt as text. `template` None is `chat_template()`.

    `reasoning_content` of an assistant message is shown only after the last user message, that is
    in the current tool loop; earlier thoughts are dropped. A tool message without a name takes
    it from the call that its `tool_call_id` names.

    Raises:
        RequestError: messages or tools are malformed, or the template refuses them.
        TokenizerError: the template is no Jinja template.
    """
    return _fill(checked_messages(messages), checked_tools(tools), add_generation_prompt, repaired(template))


@overload
def encode_chat(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    *,
    with_mask: Literal[False] = False,
) -> list[int]: ...
@overload
def encode_chat(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    *,
    with_mask: Literal[True],
) -> tuple[list[int], list[int]]: ...
def encode_chat(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    *,
    with_mask: bool = False,
) -> list[int] | tuple[list[int], list[int]]:
    """The prompt as ids; with `with_mask` also 1 for each id that the assistant says, else 0.

    Special tokens come from the template alone: a message that spells `<end_of_sentence>` has it as
    ordinary text. Only `<think>` and the tool tags in assistant messages are tokens. The ids of an
    answer start afresh after its header, as they do in generation, and the mask covers them through
    `<end_of_sentence>`.

    Raises:
        RequestError, TokenizerError: as `render`.
    """
    names = tuple(tokenizer.added_tokens)
    chat, definitions = checked_messages(messages), checked_tools(tools)
    mark = _unused_character([chat, definitions])
    chat, definitions = _guarded(chat, definitions, names, mark)
    prompt = _fill(chat, definitions, add_generation_prompt, tokenizer.chat_template)

    ids: list[int] = []
    mask: list[int] = []

    def put(new: Sequence[int], said: bool) -> None:
        ids.extend(new)
        mask.extend([int(said)] * len(new))

    turn_opened = answering = False
    for part in _split_at(names, prompt):
        if (special := tokenizer.added_tokens.get(part)) is not None:
            put([special], answering)
            turn_opened = part == tokenizer.bos_token
            answering = answering and part != tokenizer.eos_token
            continue
        header = _ANSWER_HEADER.match(part) if turn_opened else None
        if header:
            put(tokenizer.encode(header[0], split_special=True), False)
            part, answering = part[header.end() :], True
        put(tokenizer.encode(part.replace(mark, ""), split_special=True), answering)
        turn_opened = False
    return (ids, mask) if with_mask else ids


def _guarded(
    chat: list[Message], tools: list[dict[str, Any]] | None, names: tuple[str, ...], mark: str
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools with every special token's name broken; the assistant may still say the visible ones."""
    everything, hidden = _Guard(names, mark), _Guard(tuple(name for name in names if name not in VISIBLE), mark)
    guards = [hidden if message["role"] == "assistant" else everything for message in chat]
    try:
        return (
            [
                {**map_text(message, guard), "role": message["role"]}
                for message, guard in zip(chat, guards, strict=True)
            ],
            map_text(tools, everything),
        )
    except RecursionError:
        raise RequestError("messages or tools nest too deeply to be written into a prompt", param="messages") from None


class _Guard:
    """Breaks every special token's name in a text with a mark, so that only the template's own remain.

    A name may also begin at the end of one text and end in the next, so an end that could begin
    a name gets a mark as well.
    """

    def __init__(self, names: tuple[str, ...], mark: str) -> None:
        self._inside, self._tail = _guards(names)
        self._mark = mark

    def __call__(self, text: str) -> str:
        guarded = self._inside.sub(lambda match: match[1] + self._mark, text)
        return guarded + self._mark if self._tail.search(text) else guarded


@lru_cache(maxsize=8)
def _guards(names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns: the first character of any name, and an end of text that could begin one."""
    if not names:
        return re.compile("(?!)"), re.compile("(?!)")
    beginnings = {name[:length] for name in names for length in range(1, len(name))}
    inside = "|".join(map(re.escape, names))
    tail = "|".join(map(re.escape, sorted(beginnings, key=len, reverse=True)))
    return re.compile(f"(?=(?:{inside}))(.)", re.DOTALL), re.compile(rf"(?:{tail})\Z")


def _split_at(names: tuple[str, ...], prompt: str) -> list[str]:
    """The prompt cut round each special token, leftmost first and longest first, without empty parts."""
    return [part for part in _splitter(names).split(prompt) if part]


@lru_cache(maxsize=8)
def _splitter(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if names else "(?!)")


def _unused_character(value: Any) -> str:
    """A private-use character that `value` does not hold."""
    try:
        used = set(json.dumps(value, ensure_ascii=False, default=str))
    except (RecursionError, ValueError):
        raise RequestError("messages or tools nest too deeply to be written into a prompt", param="messages") from None
    for code in range(0xF0000, 0x110000):
        if chr(code) not in used:
            return chr(code)
    raise RequestError("messages use every private-use character of Unicode; one must be left", param="messages")


def _fill(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool, template: str
) -> str:
    if _FIRST_PART_ONLY in template:  # another published template: give it the one part it reads
        messages = [_one_part(message) for message in messages]
    try:
        return _compiled(template).render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from None


def _one_part(message: Message) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content, "name": message.get("name", "")}]}
    return message


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    def to_json(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise TokenizerError(f"the chat template does not compile: {error}") from None
