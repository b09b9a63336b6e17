"""The scheduler over pages that hold tokens: whatever comes, everyone ends rightly, in time, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.pages import PageAllocator
from minimax_m1.engine.prefix import Checkpoint, PrefixCache
from minimax_m1.engine.scheduler import Scheduler, Slice, Track


@dataclass(eq=False, kw_only=True)
class Asker:
    """Somebody who wants some tokens; the model's reply to any text is the number of its tokens, modulo 7."""

    want: int = 3
    past: int = 0  # tokens that are loaded from elsewhere
    broken: bool = False  # they cannot be
    made: list[int] = field(default_factory=list)
    ran: int = 0  # tokens that were run for it
    parked: tuple[tuple[int, ...], list[int]] | None = None
    ended: int | None = None


class House:
    """A scheduler, its memory, and what an engine does with a plan. A slot holds a text, a page a row of tokens."""

    def __init__(self, *, pages: int = 64, budget: int = 1000, **config: Any) -> None:
        self.config = EngineConfig(
            **{"max_num_seqs": 4, "max_num_batched_tokens": 8, "prefill_tokens": 8, "page_size": 4, **config}
        )
        self.pages = PageAllocator(pages, self.config.page_size)
        self.prefixes = PrefixCache(self.pages, budget)
        self.scheduler = Scheduler(self.config, self.pages, self.prefixes, self)
        self.rows = np.full((pages, self.config.page_size), -1)
        self.slots: dict[int, tuple[int, ...]] = {}
        self.open: list[Track] = []
        self.parkings = 0
        self.steps = 0

    # Memory
    def begin(self, track: Track, checkpoint: Checkpoint | None, copy: tuple[int, int] | None) -> bool:
        if copy is not None:
            self.rows[copy[1]] = self.rows[copy[0]]
        self.slots[track.slot] = () if checkpoint is None else checkpoint.state
        assert len(self.slots[track.slot]) == track.length
        if track.owner.past > track.length:
            if track.owner.broken:
                self.end(track)
                return False
            self.write(track, track.ids[: track.owner.past].tolist(), 0)
            track.length = track.cached = track.owner.past
        return True

    def checkpoint(self, track: Track) -> Checkpoint | None:
        return Checkpoint(state=self.slots[track.slot], nbytes=1, answers=False)

    def park(self, track: Track) -> None:
        self.parkings += 1
        track.owner.parked = self.slots.pop(track.slot), self.rows[track.pages].ravel().tolist()

    def restore(self, track: Track) -> None:
        text, tokens = track.owner.parked
        self.slots[track.slot] = text
        for place, token in enumerate(tokens[: len(text)]):
            self.rows[track.pages[place // self.pages.size], place % self.pages.size] = token

    # Engine
    def ask(self, ids: list[int], **fields: Any) -> Track:
        owner = Asker(**{name: fields.pop(name) for name in ("want", "past", "broken") if name in fields})
        track = Track(
            ids=np.array(ids),
            owner=owner,
            arrival=len(self.open),
            **{"keep": True, "reuse": (owner.past, len(ids)), **fields},
        )
        self.open.append(track)
        self.scheduler.add(track)
        return track

    def end(self, track: Track) -> None:
        track.owner.ended = self.steps
        self.slots.pop(track.slot, None)

    def cancel(self, track: Track) -> None:
        if track.owner.ended is None:
            self.end(track)
            self.scheduler.remove(track)

    def write(self, track: Track, tokens: list[int], start: int) -> None:
        size = self.pages.size
        written = {track.pages[place // size] for place in range(start, start + len(tokens))}
        for other in self.running:
            assert other is track or not written & set(other.pages), "somebody writes where another reads"
        for place, token in enumerate(tokens, start):
            self.rows[track.pages[place // size], place % size] = token
        self.slots[track.slot] += tuple(tokens)

    @property
    def running(self) -> list[Track]:
        return [track for track in self.open if track.slot >= 0]

    def step(self) -> list[Slice]:
        self.steps += 1
        alive = [track for track in self.open if track.owner.ended is None]
        slices = self.scheduler.plan()
        ready = [track for track in self.running if not track.reading and track.pending == 0]
        assert len({each.track for each in slices}) == len(slices)
        if any(track.owner.ended is None for track in alive):
            assert slices or ready or any(track.owner.ended == self.steps for track in alive), "everybody waits"
        for each in slices:
            track = each.track
            self.check(track)
            assert each.count > 0
            text = [*track.ids.tolist(), *track.owner.made]
            reading = track.reading
            assert each.count <= (track.most or 100) if reading else each.count == track.pending
            self.write(track, text[track.length : track.length + each.count], track.length)
            track.length += each.count
            track.owner.ran += each.count
            if reading and (track.stops[:1] == [track.length] or not track.reading) and track.keep:
                self.keep(track, not track.reading)
            if not track.reading:
                ready.append(track)
        for track in ready:
            track.owner.made += [(track.length + extra) % 7 for extra in range(1 + track.length % 2)]  # some by force
            track.pending = 1 + track.length % 2
            if len(track.owner.made) >= track.owner.want:
                if track.keep and track.length > len(track.ids):
                    self.keep(track, False)
                self.end(track)
                self.scheduler.remove(track)
        return slices

    def keep(self, track: Track, answers: bool) -> None:
        text = self.slots[track.slot]
        self.scheduler.keep(track, np.array(text), Checkpoint(state=text, nbytes=1, answers=answers))

    def check(self, track: Track) -> None:
        """What a track is about to run from is what it read."""
        text = [*track.ids.tolist(), *track.owner.made][: track.length]
        assert list(self.slots[track.slot]) == text
        assert self.rows[track.pages].ravel()[: track.length].tolist() == text

    def drain(self, most: int = 500) -> list[list[Slice]]:
        plans = []
        while any(track.owner.ended is None for track in self.open):
            plans.append(self.step())
            assert len(plans) < most, "somebody starves"
        return plans

    def at_rest(self) -> None:
        assert self.scheduler.running == self.scheduler.waiting == 0 and not self.slots
        assert self.pages.available == len(self.pages)
        self.prefixes.clear()
        assert self.pages.free == len(self.pages)
        assert sorted(self.scheduler._slots) == list(range(self.config.max_num_seqs))


def test_replies_go_first_and_prompts_share_what_is_left() -> None:
    house = House(prefill_tokens=40, max_num_batched_tokens=35)
    short, long = house.ask([1, 2], want=9), house.ask([3] * 90)
    assert [(each.track, each.count) for each in house.step()] == [(short, 2), (long, 38)]
    assert [(each.track, each.count) for each in house.step()] == [(short, 1), (long, 34)]
    house.drain()
    house.at_rest()


def test_readers_take_turns() -> None:
    house = House(max_num_seqs=3)
    for first in range(3):
        house.ask([first] * 20)
    tracks = house.open
    turns = [[tracks.index(each.track) for each in house.step()] for _ in range(6)]
    assert turns == [[0], [1], [2], [0], [1], [2]]


def test_a_slice_is_not_cut_so_short_that_it_is_not_worth_its_batch() -> None:
    house = House(prefill_tokens=60)
    first, second = house.ask([1] * 50), house.ask([2] * 50)
    third = house.ask([3] * 5)
    assert [(each.track, each.count) for each in house.step()] == [(first, 50)]
    house.cancel(first)
    assert [(each.track, each.count) for each in house.step()] == [(second, 50), (third, 5)]


def test_a_reader_gets_a_token_a_step_however_many_write() -> None:
    house = House(max_num_seqs=8, max_num_batched_tokens=3)
    for first in range(6):
        house.ask([first], want=30)
    house.step()
    late = house.ask([9] * 5)
    assert [each.count for _ in range(5) for each in house.step() if each.track is late] == [1] * 5


def test_the_more_urgent_reads_first_and_gets_in_first() -> None:
    house = House(max_num_seqs=2)
    house.ask([1] * 40)
    house.step()
    urgent, late = house.ask([2] * 16, priority=-1), house.ask([3] * 8)
    assert [[each.track for each in house.step()] for _ in range(2)] == [[urgent], [urgent]]
    assert late.slot < 0


def test_the_less_urgent_is_parked_for_the_more_urgent_and_comes_back() -> None:
    house = House(max_num_seqs=1)
    slow = house.ask([1] * 20, priority=5, want=6)
    house.step()
    urgent = house.ask([2] * 4)
    assert [each.track for each in house.step()] == [urgent]
    assert slow.parked and slow.slot < 0 and slow.pages == []
    house.drain()
    assert urgent.owner.ended < slow.owner.ended
    assert slow.owner.ran == slow.length  # nothing was read twice
    house.at_rest()


def test_nobody_is_parked_and_nothing_is_forgotten_in_vain() -> None:
    house = House(pages=10)
    house.ask([7, 8, 9, 9, 9])
    house.drain()
    cached = len(house.prefixes)
    equal = house.ask([1] * 24, want=12)
    lesser = house.ask([2] * 4, priority=1, want=20)
    house.step()
    urgent = house.ask([3] * 20)  # 5 pages: more than there would be without the lesser one
    for _ in range(4):
        house.step()
    assert lesser.slot >= 0 and equal.slot >= 0 and urgent.slot < 0
    assert len(house.prefixes) >= cached and house.parkings == 0
    house.drain()
    house.at_rest()


def test_whoever_came_last_is_parked_when_pages_run_out() -> None:
    house = House(pages=4, max_num_seqs=2)
    first, last = house.ask([1] * 4, want=9), house.ask([2] * 4, want=9)
    plans = [house.step()]
    while not last.parked:
        plans.append(house.step())
    assert len(house.prefixes) == 2  # their pages are in use, so forgetting the prompts would have freed nothing
    plans += house.drain()
    assert house.parkings == 1
    assert first.owner.ended < last.owner.ended
    assert [len(plan) for plan in plans].count(0) == 0
    house.at_rest()


def test_a_prompt_that_fills_all_pages_does_not_wait_for_one_more_to_copy_to() -> None:
    house = House(pages=3)
    house.ask([1, 2, 3, 4, 5, 6], want=1)
    house.drain()
    again = house.ask([1, 2, 3, 4, 5, 6, *range(10, 16)], want=1)  # 12 tokens in 3 pages
    house.drain(most=5)
    assert (again.cached, again.owner.made) == (0, [5])
    house.at_rest()


def test_what_was_read_is_not_read_again() -> None:
    house = House()
    house.ask(list(range(10)), want=4)
    house.drain()
    same, longer = house.ask(list(range(10)), want=1), house.ask([*range(10), 3, 30, 31], want=1)
    house.drain()
    assert (same.cached, same.owner.ran) == (10, 0)
    assert (longer.cached, longer.owner.ran) == (10, 3)
    house.at_rest()


def test_where_two_prompts_part_is_where_the_third_begins() -> None:
    house = House()
    system = list(range(40))
    tracks = []
    for tail in (50, 60, 70):
        tracks.append(house.ask([*system, tail, tail, tail]))
        house.drain()
    assert [track.cached for track in tracks] == [0, 0, 40]


def test_whoever_wants_what_another_reads_waits_for_it() -> None:
    house = House(pages=200, max_num_seqs=8, prefill_tokens=64)
    tracks = [house.ask(list(range(200)), want=2) for _ in range(6)]
    longer = house.ask([*range(200), *range(300)])
    other = house.ask([5, *range(20)], want=2)
    house.drain()
    assert [track.cached for track in tracks] == [0] + [200] * 5
    assert longer.cached == 0  # 200 tokens are not worth the wait
    assert other.owner.ended < tracks[0].owner.ended
    house.at_rest()


def test_prompts_that_part_late_share_what_they_have_in_common_while_it_is_read() -> None:
    house = House(pages=400, max_num_seqs=8, prefill_tokens=100)
    system = list(range(500))
    first, second, third = (house.ask([*system, *[tail] * 20]) for tail in (1000, 2000, 3000))
    house.drain()
    assert [track.cached for track in (first, second, third)] == [0, 500, 500]
    house.at_rest()


def test_followers_outlive_their_leader_and_one_of_them_leads() -> None:
    house = House(max_num_seqs=8)
    leader, *others = (house.ask([*range(20)], want=1) for _ in range(5))
    house.step()
    house.cancel(leader)
    house.drain()
    assert sorted(track.cached for track in others) == [0, 20, 20, 20]
    assert all(track.leader is None for track in house.open[1:])
    house.at_rest()


def test_nobody_follows_the_less_urgent_nor_another_space_nor_one_who_keeps_nothing() -> None:
    for changes in ({"priority": 1}, {"space": 0.5}, {"keep": False}):
        house = House(prefill_tokens=4)
        house.ask(list(range(20)), **changes)
        house.step()
        track = house.ask(list(range(20)))
        house.step()
        assert track.slot >= 0 and track.leader is None, changes


def test_a_past_is_loaded_once_for_all_who_go_on_from_it() -> None:
    house = House(max_num_seqs=3)
    past = list(range(30))
    tracks = [house.ask([*past, n, n], past=30) for n in range(40, 43)]
    house.step()
    assert [track.cached for track in tracks] == [30, 30, 30]
    assert len({tuple(track.pages[:7]) for track in tracks}) == 1
    broken = house.ask([9, *past], past=10, broken=True)
    house.drain()
    assert broken.owner.made == [] and broken.pages == []
    house.at_rest()


def test_a_loader_does_not_wait_for_one_who_reads_what_it_can_load() -> None:
    house = House(pages=400)
    text = list(range(600))
    house.ask(text)
    house.step()
    loader = house.ask([*text[:580], 7], past=580)
    house.step()
    assert (loader.cached, loader.leader) == (580, None)


Plan = list[tuple[int, int, int, int, int, int, bool, bool]]


@settings(max_examples=200)
@given(
    plan=st.lists(
        st.tuples(
            st.integers(0, 25),  # arrives at this step
            st.integers(1, 60),  # prompt length
            st.integers(0, 2),  # what it begins with, and so with whom it shares
            st.integers(1, 20),  # tokens wanted
            st.integers(0, 120),  # cancelled so many steps after it came
            st.integers(-1, 1),  # priority
            st.booleans(),  # has a past
            st.booleans(),  # keeps and reuses
        ),
        max_size=14,
    ),
    size=st.integers(1, 8),
    room=st.integers(0, 25),
    slots=st.integers(1, 6),
    budget=st.integers(0, 12),
    tokens=st.integers(1, 70),
    every=st.integers(1, 40),
)
def test_whatever_comes_everyone_ends_and_no_page_or_slot_is_lost(
    plan: Plan, size: int, room: int, slots: int, budget: int, tokens: int, every: int
) -> None:
    house = House(
        pages=-(-85 // size) + room,
        page_size=size,
        max_num_seqs=slots,
        budget=budget,
        prefill_tokens=tokens,
        max_num_batched_tokens=-(-tokens // 2),
        checkpoint_every=every,
    )
    comers: list[tuple[int, int, Track]] = []
    for step in range(3000):
        for arrival, length, start, want, patience, priority, has_past, shares in plan:
            if arrival == step:
                ids = [*([start] * (length // 2)), *range(start, start + length - length // 2)]
                past = length // 3 if has_past and length > 3 else 0
                more = {} if shares else {"reuse": None, "keep": False}
                track = house.ask(ids, want=want, past=past, broken=length % 7 == 0, priority=priority, **more)
                comers.append((step + patience, patience, track))
        for when, _, track in comers:
            if when == step:
                house.cancel(track)
        if step > 25 and all(track.owner.ended is not None for track in house.open):
            break
        waited = [track for track in house.open if track.slot < 0 and track.owner.ended is None]
        writing = [track for track in house.running if not track.reading]
        slices = house.step()
        ran = {each.track for each in slices}
        for track in writing:
            assert track in ran or track.parked, "a reply stands still"
        inside = [track for track in waited if track.slot >= 0]
        for track in waited:
            if track.slot < 0 and track.owner.ended is None and track.leader is None:
                assert all((track.priority, track.arrival) > (each.priority, each.arrival) for each in inside)
        assert house.pages.available == len(house.pages) - len({p for t in house.running for p in t.pages})
    else:
        raise AssertionError("somebody starves")
    for track in house.open:
        assert track.owner.ran == track.length - track.cached, "work was lost or done twice"
    house.at_rest()
