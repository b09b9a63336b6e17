"""`JsonlPrompts`: the user's own JSONL files as an endless source of prompts, and a look at them before a run begins.

In: files, a tokenizer, a seed, the most tokens of a prompt. Out: prompts, each epoch in an order of its own, and a
`PromptReport`. A row is one of

    {"prompt": "...", ...}        a user's text, or messages
    {"messages": [...], ...}      OpenAI's; what a last assistant message says becomes the column `reference`

with `tools` if need be; every other key is a column for the rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimax_m1.errors import DataError, RequestError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.messages import Message, checked_messages, checked_tools
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.faults import Faults, read_files
from minimax_m1.train.kinds import check_calls, parsed_line, written_messages, written_tools
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.shuffled import ShuffledLines


class JsonlPrompts:
    """Rows of all the files together, shuffled by seed and epoch.

    Rows whose place "FILE:LINE" is in `skip` are left out. Raises DataError: a file is missing, a folder, empty or
    cannot be read, or no row is left.
    """

    levels: Sequence[int] = ()

    def __init__(
        self,
        files: Sequence[Path],
        tokenizer: MiniMaxM1Tokenizer,
        seed: int,
        length: int,
        *,
        skip: Container[str] = frozenset(),
        tools: Sequence[dict[str, Any]] = (),
        name: str = "data",
    ) -> None:
        """`length`: the most tokens of a prompt. `tools`: shown in every prompt, as those of an environment are."""
        self.name = name
        self._tokenizer, self._length, self._tools = tokenizer, length, tuple(tools)
        self._lines = ShuffledLines(files, f"{seed}/{name}", skip)

    @property
    def rows(self) -> int:
        """Rows of one epoch, which are as many draws."""
        return len(self._lines)

    def draw(self, index: int, level: int) -> Prompt:
        """A row's prompt; `level` means nothing here.

        Raises DataError naming the row: it has changed, or its prompt is too long.
        """
        where, raw = self._lines.read(index)
        try:
            asked, own, columns = read_row(raw)
            tools = _together(self._tools, own)
            ids = _encoded(asked, tools, self._tokenizer, self._length)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        return Prompt(source=self.name, level=0, asked=asked, tools=tools, ids=ids, columns=columns, place=where)


def read_row(raw: bytes) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...], dict[str, Any]]:
    """What a row asks, its tools, and its columns.

    Of a last assistant message the column `reference` is the content, without thought and calls. Raises DataError of
    one short clause without the file's name.
    """
    columns = parsed_line(raw)
    kinds = [kind for kind in ("prompt", "messages") if kind in columns]
    if not kinds:
        keys = ", ".join(sorted(columns)) or "none"
        raise DataError(f"the keys tell no prompt: {keys:.80}; a row has prompt or messages")
    if len(kinds) > 1:
        raise DataError("a row has one of prompt and messages, not both")
    try:
        messages = checked_messages(written_messages(columns.pop(kinds[0]), "user", kinds[0]))
        tools = checked_tools(written_tools(columns.pop("tools", None)))
    except RequestError as error:
        raise DataError(str(error)) from None
    for index, message in enumerate(messages):
        check_calls(message.get("tool_calls", ()), index)
    if kinds == ["messages"] and messages[-1]["role"] == "assistant":
        if "reference" in columns:
            raise DataError("a row has one of reference and a last assistant message, not both")
        columns["reference"] = messages.pop()["content"]
    if not messages:
        raise DataError("messages has nothing before the assistant's message")
    if messages[-1]["role"] == "assistant":
        raise DataError(f"the prompt ends with an assistant message, messages[{len(messages) - 1}]")
    return tuple(messages), tuple(tools or ()), columns


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport(Faults):
    """What files hold; counts are of good rows. Empty lines count nowhere.

    columns: the names that every row has; partial: those that only some have; longest: the most tokens of a prompt.
    """

    rows: int
    columns: frozenset[str]
    partial: frozenset[str]
    longest: int


def check_prompts(
    files: Sequence[Path],
    tokenizer: MiniMaxM1Tokenizer,
    length: int,
    progress: Callable[[int], None] | None = None,
    *,
    tools: Sequence[dict[str, Any]] = (),
) -> PromptReport:
    """Reads and encodes every row once, as a run would, so that no run stops at a broken row hours later.

    `length` and `tools` as in `JsonlPrompts`. `progress` is told the bytes of each line read.
    """
    columns = Counter[str]()
    lengths: list[int] = []

    def read(raw: bytes) -> None:
        asked, own, beside = read_row(raw)
        lengths.append(len(_encoded(asked, _together(tools, own), tokenizer, length)))
        columns.update(beside.keys())

    found = read_files(files, read, progress)
    return PromptReport(
        rows=len(lengths),
        columns=frozenset(name for name, count in columns.items() if count == len(lengths)),
        partial=frozenset(name for name, count in columns.items() if count < len(lengths)),
        longest=max(lengths, default=0),
        faults=found.faults,
        more=found.more,
        bad=found.bad,
        unusable=found.unusable,
    )


def _together(shared: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """All tools; of two with one name the shared one, which answers the calls."""
    names = {tool["name"] for tool in shared}
    return (*shared, *(tool for tool in own if tool["name"] not in names))


def _encoded(
    asked: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], tokenizer: MiniMaxM1Tokenizer, length: int
) -> list[int]:
    try:
        ids = encode_chat(tokenizer, asked, tools or None)
    except RequestError as error:
        raise DataError(str(error)) from None
    if len(ids) > length:
        raise DataError(f"the prompt is {len(ids)} tokens long, the most is {length}")
    return ids
