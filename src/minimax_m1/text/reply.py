"""A reply's running text -> thought, answer, tool calls.

In: text in pieces of any size. Out: `Piece`s as soon as they are certain. The formats are M1's
(`<think>`, then the answer, then `<tool_calls>` with one JSON object a line) and Text-01's
(`<function_call>` and a fenced block of `functions.NAME({...})` lines). A call is told whole, or, where its
form is guaranteed, while it is written. How the text falls into pieces changes nothing but when things are told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from minimax_m1.text.vocabulary import FUNCTION_CALL, THINK, THINK_END, TOOL_CALLS, TOOL_CALLS_END

_FUNCTION = re.compile(r"functions\.([\w.-]+)\((.*)\);?", re.DOTALL)
_FENCE = "```"
# A guided line up to its arguments, exactly as `text/grammar.py` forces it.
_JSON_HEAD = re.compile(r'\{"name": ("(?:[^"\\\n]|\\.)*"), "arguments": (?=\{)')
_FUNCTION_HEAD = re.compile(r"functions\.([\w.-]+)\((?=\{)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call; `arguments` is a JSON object in a string."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """New `text` of the thought ("reasoning") or of the answer ("content"), or a "tool_call".

    `index` counts the calls from 0; `name` and `arguments` (JSON in a string) are the call's. A guided call
    has no `arguments` yet: they follow as the `text` of pieces of kind "arguments" with the same `index`.
    """

    kind: Literal["reasoning", "content", "tool_call", "arguments"]
    text: str = ""
    index: int = 0
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply taken apart."""

    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]


def parse_reply(text: str, *, thinking: bool = True, tools: bool = True) -> Reply:
    """Takes a whole reply apart, by the rules of `ReplyParser`."""
    parser = ReplyParser(thinking=thinking, tools=tools)
    pieces = [*parser.feed(text), *parser.finish()]
    return Reply(
        reasoning="".join(piece.text for piece in pieces if piece.kind == "reasoning"),
        content="".join(piece.text for piece in pieces if piece.kind == "content"),
        tool_calls=tuple(
            ToolCall(name=piece.name, arguments=piece.arguments) for piece in pieces if piece.kind == "tool_call"
        ),
    )


class ReplyParser:
    """Tells thought, answer and calls apart while the reply is being written.

    - A thought is what stands in `<think>` at the head of the reply; unclosed, it runs to the end.
      Tool tags inside it are part of the thought. `thinking` False leaves `<think>` in the answer.
    - A block of calls may come anywhere after it, and need not be closed. A line is a call where it is a
      JSON object with a name and arguments; any other line comes back as answer, so nothing is lost.
      `tools` False leaves blocks in the answer.
    - The line breaks that the format puts round its tags are not part of any text.
    - `guided` is the caller's word that a block holds only valid calls, written as `text/grammar.py` forces
      them. Then a call is told once its name is known, and its arguments as they come, exactly as written;
      where the reply is cut, they are cut. A line that begins otherwise is read as above.
    """

    def __init__(self, *, thinking: bool = True, tools: bool = True, guided: bool = False) -> None:
        self._tools = tools
        self._guided = guided
        self._buffer = ""
        self._skip = 0  # line breaks to drop before what comes next
        self._scanned = 0  # how much of the buffer's first line holds no end of a block
        self._calls = 0
        self._answered = False  # some answer was told
        self._broken = False  # a block or a line of one stands between that answer and what comes next
        self._object = _Object()  # the arguments of guided calls, one after the other
        self._pieces: list[Piece] = []
        self._state: Callable[[bool], bool] = self._head if thinking else self._answer
        self._lines: Callable[[bool], bool] = self._call_lines  # the state that a guided call goes back to

    @property
    def thinking(self) -> bool:
        """True while the text belongs to the thought."""
        return self._state == self._thought

    def feed(self, text: str) -> list[Piece]:
        """What the new text makes certain."""
        self._buffer += text
        return self._run(final=False)

    def finish(self) -> list[Piece]:
        """What was held back; the reply is over."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Piece]:
        while self._buffer and self._skipped() and self._state(final):
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def _skipped(self) -> bool:
        """Drops the line breaks due; True if text is left."""
        while self._skip and self._buffer.startswith("\n"):
            self._buffer, self._skip = self._buffer[1:], self._skip - 1
        if self._buffer:
            self._skip = 0
        return bool(self._buffer)

    # Each state reads from the front of the buffer and says whether to go on with what is left.

    def _head(self, final: bool) -> bool:
        """Before anything but white space."""
        start = self._buffer.lstrip()
        if start.startswith(THINK):
            self._buffer, self._skip, self._state = start.removeprefix(THINK), 1, self._thought
            return True
        if THINK.startswith(start) and not final:
            return False
        self._state = self._answer
        return True

    def _thought(self, final: bool) -> bool:
        before, tag, after = self._buffer.partition(THINK_END)
        if tag:
            self._tell("reasoning", before.removesuffix("\n"))
            self._buffer, self._skip, self._state = after, 2, self._answer
            return True
        self._tell_all_but(0 if final else _open_end(self._buffer, ("\n" + THINK_END,)), "reasoning")
        return False

    def _answer(self, final: bool) -> bool:
        tags = (TOOL_CALLS, FUNCTION_CALL) if self._tools else ()
        found = [(place, tag) for tag in tags if (place := self._buffer.find(tag)) >= 0]
        if found:
            place, tag = min(found)
            self._tell("content", self._buffer[:place].removesuffix("\n").removesuffix("\n"))
            self._buffer, self._skip, self._broken = self._buffer[place + len(tag) :], 1, True
            self._state = self._call_lines if tag == TOOL_CALLS else self._function_lines
            return True
        marks = tuple("\n\n" + tag for tag in tags)
        self._tell_all_but(0 if final else _open_end(self._buffer, marks), "content")
        return False

    def _call_lines(self, final: bool) -> bool:
        """One line of M1's block. An end tag inside a JSON string does not end it."""
        if self._guided and (head := _JSON_HEAD.match(self._buffer)) and (name := _name(head[1])) is not None:
            return self._open_call(name, head.end())
        line, newline, rest = self._buffer.partition("\n")
        first = -1
        place = line.find(TOOL_CALLS_END, self._scanned)
        while place >= 0:
            before = line[:place].strip()
            if not before or _json_call(before):
                return self._close_block(place)
            first = place if first < 0 else first
            place = line.find(TOOL_CALLS_END, place + 1)
        if not newline and not final:
            self._scanned = 0 if first >= 0 else max(0, len(line) - len(TOOL_CALLS_END) + 1)
            return False
        if not _json_call(line.strip()) and TOOL_CALLS_END in line:
            return self._close_block(line.index(TOOL_CALLS_END))
        self._take_line(line, _json_call)
        self._buffer, self._scanned = rest, 0
        return True

    def _close_block(self, place: int) -> bool:
        self._take_line(self._buffer[:place], _json_call)
        self._buffer, self._scanned = self._buffer[place + len(TOOL_CALLS_END) :], 0
        self._skip, self._state = 2, self._answer
        return True

    def _function_lines(self, final: bool) -> bool:
        """One line of Text-01's block: its fence, a call, or its closing fence."""
        if self._guided and (head := _FUNCTION_HEAD.match(self._buffer)):
            return self._open_call(head[1], head.end())
        line, newline, rest = self._buffer.partition("\n")
        if not newline and not final:
            return False
        self._buffer = rest
        if line.strip() == _FENCE:
            self._skip, self._state = 1, self._answer
        elif line.strip() != _FENCE + "typescript":
            self._take_line(line, _function_call)
        return True

    def _open_call(self, name: str, start: int) -> bool:
        """Tells a guided call, whose arguments begin at `start` of the buffer."""
        self._pieces.append(Piece(kind="tool_call", index=self._calls, name=name))
        self._calls += 1
        self._buffer, self._scanned = self._buffer[start:], 0
        self._lines, self._state = self._state, self._arguments
        return True

    def _arguments(self, final: bool) -> bool:
        """The arguments of a guided call, up to the brace that closes them."""
        end = self._object.end(self._buffer)
        told = self._buffer if end is None else self._buffer[:end]
        self._pieces.append(Piece(kind="arguments", index=self._calls - 1, text=told))
        self._buffer = self._buffer[len(told) :]
        if end is not None:
            self._state = self._after_arguments
        return end is not None

    def _after_arguments(self, final: bool) -> bool:
        """The bracket that closes a guided call; anything else is the next line's."""
        self._state = self._lines
        self._buffer = self._buffer.removeprefix(")" if self._lines == self._function_lines else "}")
        return True

    def _take_line(self, line: str, parse: Callable[[str], ToolCall | None]) -> None:
        """Tells a line of a block as a call, or else as answer; an empty line is nothing."""
        if call := parse(line.strip()):
            self._pieces.append(Piece(kind="tool_call", index=self._calls, name=call.name, arguments=call.arguments))
            self._calls += 1
        elif line.strip():
            self._tell("content", line)
        self._broken = True

    def _tell(self, kind: Literal["reasoning", "content"], text: str) -> None:
        if not text:
            return
        if kind == "content":
            if self._answered and self._broken:
                text = "\n" + text
            self._answered, self._broken = True, False
        self._pieces.append(Piece(kind=kind, text=text))

    def _tell_all_but(self, keep: int, kind: Literal["reasoning", "content"]) -> None:
        cut = len(self._buffer) - keep
        self._tell(kind, self._buffer[:cut])
        self._buffer = self._buffer[cut:]


class _Object:
    """Looks for the end of a JSON object that comes in pieces; behind it, for the end of the next."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def end(self, text: str) -> int | None:
        """The place behind the object in `text`, which goes on where the last text ended; None if it is not there."""
        for place, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif char == '"':
                self._quoted = not self._quoted
            elif self._quoted:
                self._escaped = char == "\\"
            elif char == "{":
                self._depth += 1
            elif char == "}":
                self._depth -= 1
                if not self._depth:
                    return place + 1
        return None


def _open_end(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that may grow into a mark, line breaks before it included.

    A mark begins with the line breaks that belong to it; fewer of them will do.
    """
    forms = {mark[start:] for mark in marks for start in range(len(mark) - len(mark.lstrip("\n")) + 1)}
    for length in range(min(max(map(len, forms), default=1) - 1, len(text)), 0, -1):
        end = text[-length:]
        if any(form.startswith(end) for form in forms):
            return length
    return 0


def _name(quoted: str) -> str | None:
    """The name that a JSON string spells, or None where UTF-8 has no place for it."""
    try:
        name: str = json.loads(quoted)
    except ValueError:
        return None
    return None if any("\ud800" <= char <= "\udfff" for char in name) else name


def _json_call(line: str) -> ToolCall | None:
    """`{"name": ..., "arguments": {...}}`, or None."""
    if not (line.startswith("{") and line.endswith("}")):
        return None
    value = _object(line)
    if value is None or not isinstance(name := value.get("name"), str) or "arguments" not in value:
        return None
    arguments = value["arguments"]
    if isinstance(arguments, str):  # some replies put the object into a string
        arguments = _object(arguments)
    return _call(name, arguments)


def _function_call(line: str) -> ToolCall | None:
    """`functions.NAME({...})`, or None."""
    match = _FUNCTION.fullmatch(line)
    return _call(match[1], _object(match[2] or "{}")) if match else None


def _call(name: str, arguments: object) -> ToolCall | None:
    """A call whose arguments are an object; lone surrogates stay escaped, since UTF-8 has no place for them."""
    if not isinstance(arguments, dict) or any("\ud800" <= char <= "\udfff" for char in name):
        return None
    written = json.dumps(arguments, ensure_ascii=False)
    if any("\ud800" <= char <= "\udfff" for char in written):
        written = json.dumps(arguments)
    return ToolCall(name=name, arguments=written)


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
