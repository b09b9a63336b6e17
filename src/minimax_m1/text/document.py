"""A document as the prompt's beginning: texts or a conversation that are read once, and prompts that go on from there.

In: a tokenizer with its chat template; texts by name, or messages; later the messages that continue them. Out: ids.
Texts are one user message kept open: the texts, an empty line between two, then an empty line and the question,
exactly as they would be in one message of a chat. `Meta` says which of the two a document is, as JSON values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.streaming import BLOCK, TextSource

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Ids = NDArray[np.int32]
Meta = Mapping[str, Any]  # {"kind": "text", "sources": [names]} or {"kind": "chat", "messages": [...]}, and more

_JOINT = "\n\n"  # an empty line between two texts, and between the text and the question
_MARK = "\U000f0000"  # stands for the user's text while the template is cut before it
_WORD = "x"  # stands for the texts where only what follows them is wanted


def text_ids(tokenizer: MiniMaxM1Tokenizer, texts: Mapping[str, TextSource], *, limit: int) -> Ids:
    """The ids, [n], of texts by name, from the template's first token to the end of the last text.

    White space at the end of a text is dropped. A text may be of any length: it is encoded in pieces.

    Raises:
        RequestError: a text is empty, cannot be read or is no UTF-8.
        ContextLengthExceeded: there are `limit` ids or more.
    """
    head, opening = _head(tokenizer)
    return _encoded(tokenizer, head, itertools.chain([opening], _joined(texts)), limit)


def tail_ids(tokenizer: MiniMaxM1Tokenizer, texts: Mapping[str, TextSource], *, limit: int) -> Ids:
    """The ids, [n], that more texts add at the end of a text document, whichever it is; raises as `text_ids`."""
    return _encoded(tokenizer, [], itertools.chain([_JOINT], _joined(texts)), limit)


def chat_ids(tokenizer: MiniMaxM1Tokenizer, messages: Sequence[Mapping[str, Any]], *, limit: int) -> Ids:
    """The ids, [n], that a conversation begins with whatever the user says next.

    Raises:
        RequestError: a message is malformed.
        ContextLengthExceeded: there are `limit` ids or more.
    """
    # What two different questions have in common, up to the last special token: no question changes that.
    asked, other = (encode_chat(tokenizer, [*messages, {"role": "user", "content": text}]) for text in "ab")
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(asked, other, strict=True)))
    special = set(tokenizer.added_tokens.values())
    while common and asked[common - 1] not in special:
        common -= 1
    return _encoded(tokenizer, asked[:common], [], limit, param="messages")


def continued(tokenizer: MiniMaxM1Tokenizer, meta: Meta, ids: Ids, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The prompt, up to where the reply begins, of messages that go on from the document of `meta` and `ids`.

    To texts the first message says the question, in one message with them; later turns follow. A conversation is
    followed by the messages.

    Raises:
        RequestError: a message is malformed, or changes how the document begins: a system message, say, which
            templates put first.
    """
    if meta["kind"] == "chat":
        prompt = encode_chat(tokenizer, [*meta["messages"], *messages])
        if not np.array_equal(prompt[: len(ids)], ids):
            raise RequestError(
                "these messages change how the context's conversation is written; give a user's message to go on "
                "with, and no system message",
                param="messages",
            )
        return prompt
    if not messages or messages[0].get("role") != "user" or _sets_up(messages):
        raise RequestError(
            "the messages on a context of texts begin with a user's message, the question, and hold no system message",
            param="messages",
        )
    # Text ends before white space for every tokenizer of the family, so what follows it has ids of its own, which
    # are the same behind any text.
    word = text_ids(tokenizer, {"": _WORD}, limit=2**62).tolist()
    content = messages[0].get("content")
    joint = _WORD + _JOINT
    opened = joint + content if isinstance(content, str) else [{"type": "text", "text": joint}, *(content or ())]
    prompt = encode_chat(tokenizer, [{**messages[0], "content": opened}, *messages[1:]])
    if prompt[: len(word)] != word:
        raise RequestError(
            "this model's chat template or tokenizer changes a text with what follows it, so no question can be "
            "put to a text that was read before",
            param="messages",
        )
    return [*ids.tolist(), *prompt[len(word) :]]


def _sets_up(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(message.get("role") in ("system", "developer") for message in messages)


def _head(tokenizer: MiniMaxM1Tokenizer) -> tuple[list[int], str]:
    """The chat template before a user's one message: ids, and the words that open the message."""
    prompt: str = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    before, *after = prompt.split(_MARK)
    if len(after) != 1:
        raise RequestError(
            f"this model's chat template shows a user's message {len(after)} times; a context needs it once",
            param="messages",
        )
    ends = [before.rfind(name) + len(name) for name in tokenizer.added_tokens if name in before]
    cut = max(ends, default=0)
    return tokenizer.encode(before[:cut]), before[cut:]


def _encoded(
    tokenizer: MiniMaxM1Tokenizer, head: Sequence[int], pieces: Iterable[str], limit: int, param: str = "input"
) -> Ids:
    """`head`, then the pieces as one text without special tokens; refused as soon as it is too long."""
    blocks = [np.array(head, np.int32)]
    count = len(blocks[0])
    for block in itertools.chain([[]], tokenizer.encode(pieces, stream=True, split_special=True)):
        count += len(block)
        if count >= limit:
            raise ContextLengthExceeded(
                f"the context has {limit:,} tokens or more, and the model takes {limit:,}, the question and "
                "its answer among them",
                param=param,
            )
        blocks.append(np.array(block, np.int32))
    return np.concatenate(blocks)


def _joined(texts: Mapping[str, TextSource]) -> Iterator[str]:
    """The texts with an empty line between two, each without the white space at its end."""
    for number, (name, source) in enumerate(texts.items()):
        empty = True
        held: list[str] = []  # white space that may be the last
        for piece in _pieces(name, source):
            if text := piece.rstrip():
                if empty and number:
                    yield _JOINT
                empty = False
                yield "".join([*held, text])
                held = []
            held.append(piece[len(text) :])
        if empty:
            raise RequestError(f"{name} holds no text", param="input")


def _pieces(name: str, source: TextSource) -> Iterator[str]:
    """A text as strings; a path is read as UTF-8 with its line ends as they are."""
    try:
        if isinstance(source, Path):
            with source.open(encoding="utf-8", newline="") as file:
                while piece := file.read(BLOCK):
                    yield piece
        elif isinstance(source, str):
            yield source
        else:
            yield from source
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror}", param="input") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: {error.reason}", param="input") from None
