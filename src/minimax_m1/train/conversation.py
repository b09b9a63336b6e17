"""A conversation as training texts: ids, and which of them the loss counts.

In: messages, tools, and the assistant messages to learn. Out: one text, or several where the chat template would
drop a thought that is to be learned: it shows thoughts only after the last user message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from minimax_m1.errors import DataError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Text = tuple[list[int], list[int]]  # ids, and 1 for each that is learned


def conversation_texts(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    learned: Collection[int],
) -> Iterator[Text]:
    """Texts in which every assistant message at an index in `learned` is learned once, with its thought.

    What follows the last of them is left out. Raises RequestError as `encode_chat`, and DataError where the
    tokenizer's template does not write assistant messages as turns of the family's format.
    """
    assert learned, "a conversation is made of what is learned"
    pending: list[int] = []
    for stretch in _stretches(messages, learned):
        pending += stretch
        last = stretch[-1] == max(learned)
        if last or any(messages[turn].get("reasoning_content") for turn in stretch):
            yield _text(tokenizer, messages[: stretch[-1] + 1], tools, pending)
            pending = []


def _stretches(messages: Sequence[Mapping[str, Any]], learned: Collection[int]) -> Iterator[list[int]]:
    """The learned turns, those between two user messages together: their thoughts are shown at once."""
    users = 0
    asked = {}
    for index, message in enumerate(messages):
        users += message["role"] == "user"
        asked[index] = users
    for _, turns in groupby(sorted(learned), key=asked.__getitem__):
        yield list(turns)


def _text(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    learned: Sequence[int],
) -> Text:
    ids, said = encode_chat(tokenizer, messages, tools, add_generation_prompt=False, with_mask=True)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if turns == learned and any(said):
        return ids, said
    runs = [list(run) for _, run in groupby(range(len(said)), key=said.__getitem__)]
    spoken = [run for run in runs if said[run[0]]]
    if len(spoken) != len(turns):
        raise DataError(f"the chat template writes {len(spoken)} assistant turns for {len(turns)} assistant messages")
    for turn, run in zip(turns, spoken, strict=True):
        if turn not in learned:
            said[run[0] : run[-1] + 1] = [0] * len(run)
    return ids, said
