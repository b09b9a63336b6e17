"""What may be given as a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minimax_m1.errors import RequestError
from minimax_m1.llm.prompt import listed, one_each, read_prompt, talks
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def test_text_ids_and_mappings_are_read(words: MiniMaxM1Tokenizer) -> None:
    ids = words.encode("the river")
    for given in ("the river", {"prompt": "the river"}, {"prompt": "the river", "prompt_token_ids": ids}):
        read = read_prompt(given, words)
        assert (read.text, read.ids, read.past) == ("the river", ids, None)
    for other in (ids, tuple(ids), np.array(ids), {"prompt_token_ids": np.array(ids, np.int32)}):
        read = read_prompt(other, words)  # type: ignore[arg-type]
        assert read.text is None and read.ids == ids
        assert all(type(token) is int for token in read.ids)
    past: Any = object()
    assert read_prompt({"prompt_token_ids": ids, "past": past}, words).past is past
    with pytest.raises(RequestError, match=r"needs \"prompt\" or \"prompt_token_ids\", got \['text'\]"):
        read_prompt({"text": "the"}, words)


@pytest.mark.parametrize("one", ["the", [1, 2], {"prompt": "the"}, np.array([1, 2]), [np.int64(1)]])
def test_one_prompt_may_stand_alone(one: Any) -> None:
    [only] = listed(one)
    assert only is one
    [only, other] = listed([one, one])
    assert only is other is one
    assert listed([]) == []


def test_one_talk_may_stand_alone() -> None:
    talk = [{"role": "user", "content": "hi"}]
    assert talks(talk) == talks([talk]) == [talk]
    assert talks([]) == [[]]


def test_something_for_each_prompt_or_one_for_all() -> None:
    assert one_each(None, 1.5, 2, "figures") == [1.5, 1.5]
    assert one_each(2.5, 1.5, 2, "figures") == [2.5, 2.5]
    assert one_each([1.0, 2.0], 1.5, 2, "figures") == [1.0, 2.0]
    with pytest.raises(RequestError, match="1 sampling params were given for 2 prompts"):
        one_each([1.0], 1.5, 2, "sampling_params")
