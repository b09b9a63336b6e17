"""What the engine counts, number by number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minimax_m1.engine.holdings import Counts, Holder
from minimax_m1.engine.scripted import ScriptedEngine

SYSTEM = [n % 40 for n in range(100)]


def test_a_prompt_read_twice_counts_one_miss_and_one_hit(bench: Any) -> None:
    desk = bench()
    for id in ("first", "again"):
        desk.ask(id, range(21))
        desk.drain()
    assert desk.engine.counts == Counts(queried=42, cached=21, hits=1, misses=1)
    desk.engine.forget()
    assert desk.engine.counts == Counts()


def test_what_lies_behind_the_last_kept_state_is_read_again_and_counted(bench: Any) -> None:
    desk = bench()
    for id, prompt in {"a": [*SYSTEM, 1], "b": [*SYSTEM, 2], "c": [*SYSTEM, 3]}.items():
        desk.ask(id, prompt)
        desk.drain()
    # "a" left no state where "b" parts from it, so "b" reads the hundred again; "c" begins where "b" left one.
    assert desk.engine.counts == Counts(queried=303, cached=100, hits=1, misses=2, replayed=100)


def test_who_asks_for_nothing_cached_is_not_counted_as_a_miss(bench: Any) -> None:
    desk = bench()
    desk.ask("a", range(9), prompt_logprobs=1)
    desk.drain()
    assert desk.engine.counts == Counts()


def test_a_past_counts_what_was_loaded_and_how_long_it_took(bench: Any) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    for id in ("a", "b"):
        desk.ask(id, [*SYSTEM, ord(id) % 40, 2], past=past)
        desk.drain()
    counts = desk.engine.counts
    assert (counts.loads, counts.loaded, counts.replayed) == (past.loads, 100, 0) == (1, 100, 0)
    assert (counts.hits, counts.misses, counts.cached) == (1, 1, 100)
    assert 0 < counts.load_seconds < 10


def test_a_past_that_cannot_be_loaded_counts_nothing(bench: Any) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    past.load = None
    desk.ask("a", [*SYSTEM, 1])
    desk.drain()
    before = replace(desk.engine.counts)
    desk.ask("b", [*SYSTEM, 2], past=past)
    desk.drain()
    assert desk.end("b").error is not None
    assert desk.engine.counts == before


def test_parked_requests_are_preemptions(bench: Any) -> None:
    desk = bench(max_num_seqs=1)
    desk.ask("slow", range(30), 8, priority=1)
    for _ in range(5):
        desk.step()
    assert desk.engine.counts.preemptions == 0
    desk.ask("urgent", [5, 5], 3)
    desk.drain()
    assert desk.engine.counts.preemptions == 1


def test_cached_pages_are_available_and_running_ones_are_not(bench: Any) -> None:
    desk = bench()
    desk.ask("a", range(21), 8)
    desk.step()
    held = desk.engine.holdings
    assert held.running == 1 and held.pages_available < held.pages
    desk.drain()
    held = desk.engine.holdings
    assert held.pages_available == held.pages > held.pages_free


def test_an_engine_over_a_model_tells_both_and_a_script_does_not(bench: Any) -> None:
    assert isinstance(bench().engine, Holder)
    assert not isinstance(ScriptedEngine({}, vocab_size=2), Holder)
