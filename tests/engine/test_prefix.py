"""The prefix cache against a plain table of prefixes; pages are rows of tokens here, so their content can be read."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.pages import PageAllocator
from minimax_m1.engine.prefix import Checkpoint, Ids, PrefixCache, common


class Bench:
    """A cache, a pool whose pages hold tokens, and sequences that write to it as tracks do."""

    def __init__(self, *, pages: int = 64, size: int = 4, budget: int = 1000) -> None:
        self.pages = PageAllocator(pages, size)
        self.cache = PrefixCache(self.pages, budget)
        self.rows = np.full((pages, size), -1)

    def write(self, ids: Ids, held: list[int], start: int = 0) -> list[int]:
        """A sequence's pages, more taken as needed, with the tokens from `start` on written to them."""
        held = held + self.pages.take(self.pages.covering(len(ids)) - len(held))
        for place in range(start, len(ids)):
            self.rows[held[place // self.pages.size], place % self.pages.size] = ids[place]
        return held

    def insert(self, ids: Sequence[int], *, space: Hashable = 1.0, nbytes: int = 1, answers: bool = False) -> None:
        """A sequence reads these ids, leaves a checkpoint and ends."""
        held = self.write(np.array(ids), [])
        self.keep(ids, held, space=space, nbytes=nbytes, answers=answers)
        self.pages.drop(held)

    def keep(
        self, ids: Sequence[int], held: list[int], *, space: Hashable = 1.0, nbytes: int = 1, answers: bool = False
    ) -> None:
        state = (space, tuple(ids))
        self.cache.insert(np.array(ids), space, held, Checkpoint(state=state, nbytes=nbytes, answers=answers))

    def match(self, ids: Sequence[int], space: Hashable = 1.0, least: int = 0, most: int = sys.maxsize) -> int:
        """The length of the match, once its pages and its checkpoint have been found to be right."""
        match = self.cache.match(np.array(ids), space, least, most)
        assert len(match.pages) == self.pages.covering(match.length)
        assert self.rows[list(match.pages)].ravel()[: match.length].tolist() == list(ids[: match.length])
        assert (match.checkpoint is None) == (match.length == 0)
        if match.checkpoint is not None:
            assert match.checkpoint.state == (space, tuple(ids[: match.length]))
        return match.length


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_the_longest_checkpoint_that_begins_a_prompt_is_found(size: int) -> None:
    bench = Bench(size=size)
    bench.insert(range(5))
    bench.insert(range(11))
    bench.insert([*range(7), 90, 91])
    assert bench.match(range(20)) == 11
    assert bench.match(range(10)) == 5
    assert bench.match([*range(7), 90, 91, 92]) == 9
    assert bench.match([*range(7), 90]) == 5
    assert bench.match([0, 1, 2, 3, 99]) == 0
    assert bench.cache.match(np.array([*range(7), 80]), 1.0).known == 7
    assert bench.cache.match(np.array([*range(4), 80]), 1.0).known == 4
    assert bench.cache.match(np.array([77]), 1.0).known == 0


def test_a_checkpoint_of_the_whole_prompt_must_answer() -> None:
    bench = Bench()
    bench.insert(range(4))
    bench.insert(range(6))
    assert bench.match(range(6)) == 4
    bench.insert(range(6), answers=True)
    assert bench.match(range(6)) == 6
    bench.insert(range(6))  # one that answers is not given up for one that does not
    assert bench.match(range(6)) == 6
    assert len(bench.cache) == 2


def test_what_is_asked_for_between_bounds_lies_between_them() -> None:
    bench = Bench()
    for length in (3, 6, 9):
        bench.insert(range(length))
    assert [bench.match(range(20), least=least, most=most) for least, most in ((0, 8), (6, 6), (7, 8), (0, 2))] == [
        6,
        6,
        0,
        0,
    ]


def test_spaces_know_nothing_of_each_other() -> None:
    bench = Bench()
    bench.insert(range(6), space=1.0)
    assert bench.match(range(9), space=0.5) == 0
    bench.insert(range(4), space=0.5)
    assert (bench.match(range(9), space=0.5), bench.match(range(9))) == (4, 6)


def test_a_sequence_goes_on_writing_behind_its_checkpoint() -> None:
    bench = Bench(size=4)
    held = bench.write(np.arange(6), [])
    bench.keep(range(6), held)
    held = bench.write(np.arange(11), held, 6)
    bench.keep(range(11), held)
    bench.insert([*range(6), 50, 51, 52, 53])  # another one with pages of its own
    bench.pages.drop(held)
    assert bench.match(range(8)) == 6
    assert bench.match(range(12)) == 11
    assert bench.match([*range(6), 50, 51, 52, 53, 54]) == 10


def test_the_least_recently_used_goes_first_and_the_budget_holds() -> None:
    bench = Bench(budget=30)
    for first in (1, 2, 3):
        bench.insert([first, 0], nbytes=10)
    assert bench.match([1, 0, 0]) == 2
    bench.insert([4, 0], nbytes=10)
    assert [bench.match([first, 0, 0]) for first in (1, 2, 3, 4)] == [2, 0, 2, 2]
    assert (len(bench.cache), bench.cache.nbytes) == (3, 30)
    bench.insert([5, 0], nbytes=25)
    assert [bench.match([first, 0, 0]) for first in (1, 3, 4, 5)] == [0, 0, 0, 2]
    assert (len(bench.cache), bench.cache.nbytes) == (1, 25)
    bench.insert([6, 0], nbytes=31)
    assert (bench.match([6, 0, 0]), bench.match([5, 0, 0])) == (0, 2)
    assert Bench(budget=0).cache.nbytes == 0


def test_pages_are_given_up_for_those_who_need_them_and_only_as_many_as_it_takes() -> None:
    bench = Bench(pages=8, size=2)
    for first in (1, 2, 3, 4):
        bench.insert([first, 0, 0, 0])
    assert bench.pages.free == 0 and bench.pages.available == 8
    bench.cache.reclaim(3)
    assert bench.pages.free == 4
    assert [bench.match([first, 0, 0, 0, 0]) for first in (1, 2, 3, 4)] == [0, 0, 4, 4]
    bench.cache.clear()
    assert (bench.pages.free, len(bench.cache), bench.cache.nbytes) == (8, 0, 0)
    bench.cache.reclaim(9)


def test_common_counts_beyond_one_block() -> None:
    a = np.arange(10_000)
    for place in (0, 1, 4095, 4096, 9_999):
        b = a.copy()
        b[place] = -1
        assert common(a, b) == place
    assert common(a, a[:5000]) == 5000
    assert common(a[:0], a) == 0


Move = tuple[str, list[int], bool, float, int]
tokens = st.lists(st.integers(0, 1), min_size=1, max_size=14)


@settings(max_examples=300)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(["insert", "insert", "insert", "go on", "match", "match", "end", "reclaim"]),
            tokens,
            st.booleans(),
            st.sampled_from([1.0, 1.0, 0.5]),
            st.integers(1, 4),
        ),
        max_size=25,
    ),
    size=st.integers(1, 5),
    budget=st.integers(0, 24),
)
def test_it_says_what_a_plain_table_says_and_loses_no_page(moves: list[Move], size: int, budget: int) -> None:
    count = 400
    bench = Bench(pages=count, size=size, budget=budget)
    table: OrderedDict[tuple[float, tuple[int, ...]], tuple[int, bool]] = OrderedDict()  # least recently used first
    running: list[tuple[float, list[int], list[int]]] = []  # sequences that go on: space, ids, pages

    def note(space: float, ids: list[int], nbytes: int, answers: bool) -> None:
        if nbytes > budget:
            return
        old = table.pop((space, tuple(ids)), None)
        table[space, tuple(ids)] = (nbytes, answers) if old is None or answers > old[1] else old
        while sum(each[0] for each in table.values()) > budget:
            table.popitem(last=False)

    for move, ids, flag, space, number in moves:
        if move == "insert" or (move == "go on" and not running):
            held = bench.write(np.array(ids), [])
            running.append((space, ids, held))
            bench.keep(ids, held, space=space, nbytes=number, answers=flag)
            note(space, ids, number, flag)
        elif move == "go on":  # behind its checkpoint, into the page that the checkpoint ends in
            space, before, held = running.pop(number % len(running))
            ids = before + ids
            held = bench.write(np.array(ids), held, len(before))
            running.append((space, ids, held))
            if flag:
                bench.keep(ids, held, space=space, nbytes=number)
                note(space, ids, number, False)
        elif move == "end" and running:
            bench.pages.drop(running.pop(number % len(running))[2])
        elif move == "reclaim":
            bench.cache.reclaim(count if flag else bench.pages.free + number)
            while len(table) > len(bench.cache):
                table.popitem(last=False)
        elif move == "match":
            found = [
                key
                for key, (_, answers) in table.items()
                if key[0] == space and list(key[1]) == ids[: len(key[1])] and (len(key[1]) < len(ids) or answers)
            ]
            best = max(found, key=lambda key: len(key[1]), default=None)
            known = [common(np.array(key[1]), np.array(ids)) for key in table if key[0] == space]
            assert bench.cache.match(np.array(ids), space).known == max(known, default=0)
            assert bench.match(ids, space) == (len(best[1]) if best else 0)
            if best is not None:
                table.move_to_end(best)
        assert len(bench.cache) == len(table)
        assert bench.cache.nbytes == sum(each[0] for each in table.values()) <= budget
        assert bench.pages.available == count - len({page for *_, held in running for page in held})
        for _, ids, held in running:  # nobody else wrote to its pages
            assert bench.rows[held].ravel()[: len(ids)].tolist() == ids
    for *_, held in running:
        bench.pages.drop(held)
    bench.cache.clear()
    assert bench.pages.free == bench.pages.available == count
