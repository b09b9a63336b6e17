"""How many tokens an answer may have."""

from __future__ import annotations

import pytest

from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.serve.question import room


@pytest.mark.parametrize(
    ("prompt", "asked", "window", "limit", "most"),
    [
        (10, 20, None, 100, 20),
        (90, 20, None, 100, 10),
        (90, 100, None, 100, 10),
        (99, None, None, 100, 1),
        (10, None, 30, 100, 20),
        (10, 30, 30, 100, 20),
        (10, 5, 100, 100, 5),
    ],
)
def test_what_the_window_leaves(prompt: int, asked: int | None, window: int | None, limit: int, most: int) -> None:
    assert room(prompt, asked, window, limit, asked_name="max_tokens", param="messages") == most


@pytest.mark.parametrize(
    ("prompt", "asked", "window", "kind", "said"),
    [
        (10, 5, 101, RequestError, "context_window 101 exceeds the limit of 100 tokens"),
        (10, 31, 30, RequestError, "max_tokens 31 exceeds the context window of 30 tokens"),
        (10, 101, None, RequestError, "max_tokens 101 exceeds the context window of 100 tokens"),
        (30, 5, 30, ContextLengthExceeded, "the input has 30 tokens, .* window of 30 tokens"),
        (101, None, None, ContextLengthExceeded, "the input has 101 tokens, .* window of 100 tokens"),
    ],
)
def test_what_does_not_fit(
    prompt: int, asked: int | None, window: int | None, kind: type[RequestError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        room(prompt, asked, window, 100, asked_name="max_tokens", param="messages")
