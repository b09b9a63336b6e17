"""What a folder can take: a new context, one to go on with, one that is there, or nothing of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minimax_m1.engine.manifest import read
from minimax_m1.engine.reading import Ids, Message, Owner, Reading, create_chat, create_text, extend_chat, extend_text
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError, ContextLengthExceeded

OWNER = Owner(fingerprint="f" * 64, dtype="float32", vocab_size=1000)


def ids(count: int, first: int = 0) -> Ids:
    return np.arange(first, first + count, dtype=np.int32)


def text(folder: Path, made: Ids, owner: Owner = OWNER) -> Reading:
    return create_text(folder, owner, lambda: made, sources=["a"], created=5.0, model="nano")


def longer(folder: Path, count: int, limit: int = 100) -> Reading:
    tails = iter([ids(count, 500)])  # a text may be a stream, which can be read once
    return extend_text(folder, OWNER, lambda: next(tails), sources=["b"], limit=limit)


def chat(folder: Path, *said: str) -> Reading:
    return create_chat(folder, OWNER, lambda: spelt(talk(*said)), messages=talk(*said), created=5.0, model=None)


def more(folder: Path, *said: str) -> Reading:
    return extend_chat(folder, OWNER, spelt, messages=talk(*said))


def talk(*said: str) -> list[Message]:
    return [{"role": "user", "content": each} for each in said]


def spelt(messages: Sequence[Message]) -> Ids:
    return np.array([ord(letter) for message in messages for letter in message["content"]], np.int32)


def run(made: Reading, stop: int | None = None) -> tuple[int, int]:
    """Reads up to `stop`; gives what was there before, and what is there now."""
    with made.writer() as writer:
        before, last = writer.manifest.tokens, len(made.ids) if stop is None else stop
        if before < last:
            layers = (torch.zeros(2, last - before, 1, 4),)
            writer.save(Snapshot(start=before, stop=last, lightning=(torch.zeros(1, 2, 2),), keys_values=layers))
        return before, writer.manifest.tokens


def test_a_text_is_new_then_goes_on_then_is_there(tmp_path: Path) -> None:
    assert run(text(tmp_path, ids(10)), stop=4) == (0, 4)
    assert run(text(tmp_path, ids(10))) == (4, 10)
    assert run(text(tmp_path, ids(10))) == (10, 10)
    assert read(tmp_path).meta == {"kind": "text", "sources": ["a"], "start": 0, "model": "nano"}


def test_what_can_be_refused_without_ids_is_refused_before_they_are_made(tmp_path: Path) -> None:
    run(text(tmp_path / "text", ids(10)))
    run(chat(tmp_path / "chat", "ab"))

    def never(*_: Any) -> Ids:
        raise AssertionError

    other = Owner(fingerprint="e" * 64, dtype="float32", vocab_size=1000)
    with pytest.raises(CheckpointError, match="another model"):
        create_text(tmp_path / "text", other, never, sources=[], created=1.0, model=None)
    with pytest.raises(CheckpointError, match="of the kind 'chat'; this needs one of the kind 'text'"):
        create_text(tmp_path / "chat", OWNER, never, sources=[], created=1.0, model=None)
    with pytest.raises(CheckpointError, match="of the kind 'text'; this needs one of the kind 'chat'"):
        create_chat(tmp_path / "text", OWNER, never, messages=[], created=1.0, model=None)
    with pytest.raises(CheckpointError, match="no context at"):
        extend_text(tmp_path / "none", OWNER, never, sources=[], limit=100)
    with pytest.raises(CheckpointError, match="no context at"):
        extend_chat(tmp_path / "none", OWNER, never, messages=[])
    run(text(tmp_path / "half", ids(10)), stop=3)
    with pytest.raises(CheckpointError, match="is not complete; finish it"):
        extend_text(tmp_path / "half", OWNER, never, sources=[], limit=100)


def test_an_extension_goes_on_and_is_not_added_twice(tmp_path: Path) -> None:
    run(text(tmp_path, ids(10)))
    assert run(longer(tmp_path, 5), stop=12) == (10, 12)
    with pytest.raises(CheckpointError, match="is being extended"):
        text(tmp_path, ids(10))
    with pytest.raises(CheckpointError, match="has only 11"):
        run(longer(tmp_path, 1))
    assert run(longer(tmp_path, 5)) == (12, 15)
    assert run(longer(tmp_path, 5)) == (15, 15)
    assert read(tmp_path).meta["sources"] == ["a", "b"]
    assert run(longer(tmp_path, 6)) == (15, 21)
    assert read(tmp_path).meta["sources"] == ["a", "b", "b"]


def test_an_extension_that_leaves_no_room_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run(text(tmp_path, ids(10)))
    before = read(tmp_path)
    with pytest.raises(ContextLengthExceeded, match="the context would have 15 tokens, and the model takes 15"):
        longer(tmp_path, 5, limit=15)
    assert read(tmp_path) == before
    run(longer(tmp_path, 5, limit=16))
    assert run(longer(tmp_path, 5, limit=16)) == (15, 15), "what is there already needs no more room"


def test_another_text_is_refused_with_the_place(tmp_path: Path) -> None:
    run(text(tmp_path, ids(10)))
    with pytest.raises(CheckpointError, match="is complete with 10 tokens, and the text given now has 12"):
        text(tmp_path, ids(12))
    with pytest.raises(CheckpointError, match="holds another text: token 0 is 0 there and 1 in"):
        text(tmp_path, ids(12, 1))


def test_a_conversation_grows_by_what_follows_or_by_all_of_it(tmp_path: Path) -> None:
    run(chat(tmp_path, "ab"))
    assert run(chat(tmp_path, "ab", "cd")) == (2, 4)
    assert run(more(tmp_path, "ef"), stop=5) == (4, 5)
    with pytest.raises(CheckpointError, match="is not complete; finish it with what began it first"):
        more(tmp_path, "gh")
    assert run(more(tmp_path, "ef")) == (5, 6)
    assert run(more(tmp_path, "ef")) == (6, 8), "the same may be said twice"
    assert [message["content"] for message in read(tmp_path).meta["messages"]] == ["ab", "cd", "ef", "ef"]
    with pytest.raises(CheckpointError, match="holds another text: token 2"):
        run(chat(tmp_path, "ab", "xy", "ef", "ef", "gh"))
