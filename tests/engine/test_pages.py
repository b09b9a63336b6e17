"""The page allocator against plain sets: nothing is given twice, nothing is lost, and what could be had is known."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.pages import PageAllocator


def test_pages_come_side_by_side_and_behind_the_last_where_they_can() -> None:
    pages = PageAllocator(10, 4)
    first = pages.take(3)
    assert first == [0, 1, 2]
    assert pages.take(2, after=5) == [6, 7]
    assert pages.take(2, after=2) == [3, 4]
    pages.drop([1, 3])
    assert pages.take(2, after=9) == [8, 9]  # a run, though two single pages lie before it
    assert pages.take(3) == [1, 3, 5]  # no run is left
    assert pages.free == 0
    assert pages.take(0) == []


def test_tokens_take_whole_pages() -> None:
    pages = PageAllocator(1, 4)
    assert [pages.covering(tokens) for tokens in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]


def test_our_own_mistakes_are_caught() -> None:
    pages = PageAllocator(3, 4)
    held = pages.take(2)
    for wrong in (lambda: pages.take(2), lambda: pages.share([2]), lambda: pages.drop([2])):
        with pytest.raises(AssertionError):
            wrong()
    with pytest.raises(AssertionError, match="wrong holder"):
        pages.drop(held, cached=True)


Move = tuple[str, int, int, bool]


@settings(max_examples=300)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["take", "share", "drop"]), st.integers(0, 3), st.integers(-1, 4), st.booleans()),
        max_size=60,
    )
)
def test_whatever_is_taken_shared_and_dropped_adds_up(moves: list[Move]) -> None:
    pages, holds = PageAllocator(4, 4), Counter[tuple[int, bool]]()  # (page, cached) -> holders
    for move, number, after, cached in moves:
        held = sorted({page for page, _ in holds.elements()})
        if move == "take":
            taken = pages.take(count := min(number, pages.free), after=after)
            assert len(set(taken)) == count and not set(taken) & set(held)
            holds.update((page, False) for page in taken)
        elif move == "share" and held:
            page = held[number % len(held)]
            pages.share([page], cached=cached)
            holds[page, cached] += 1
        elif move == "drop" and holds.total():
            page, cached = sorted(holds.elements())[number % holds.total()]
            pages.drop([page], cached=cached)
            holds[page, cached] -= 1
        held_at_all = {page for page, _ in holds.elements()}
        held_hard = {page for page, cached in holds.elements() if not cached}
        assert pages.free == 4 - len(held_at_all)
        assert pages.available == 4 - len(held_hard)
