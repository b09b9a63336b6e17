"""The mixture: batches full and never over, shares kept, nobody starved, resumed to the token, shards disjoint."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.train.document import Document
from minimax_m1.train.mixture import Mixture, _Waiting

SHARES = {"short": 0.2, "long": 0.3, "turns": 0.45, "rare": 0.05}


class Numbers:
    """Documents of random lengths between two bounds, `parts` a draw; their ids say which they are."""

    def __init__(self, name: str, least: int, most: int, parts: int = 1) -> None:
        self.name, self.least, self.most, self.parts = name, least, most, parts

    def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
        rng = random.Random(f"{self.name}/{index}/{difficulty}")
        sizes = [min(length, rng.randint(self.least, self.most)) for _ in range(self.parts)]
        return [
            Document(ids=[index] * size, said=[1] * size, positions=list(range(size)), place=f"{self.name}/{index}/{n}")
            for n, size in enumerate(sizes)
        ]


def sources() -> list[Numbers]:
    return [Numbers("short", 5, 60), Numbers("long", 100, 900), Numbers("turns", 20, 300, 3), Numbers("rare", 10, 80)]


def size(batch: list[Document]) -> int:
    return sum(len(document.ids) for document in batch)


def places(batches: list[list[Document]]) -> list[str]:
    return [document.place for batch in batches for document in batch]


def test_batches_are_full_and_never_over() -> None:
    mixture = Mixture(sources(), SHARES)
    sizes = [size(mixture.batch(2048, 3, 1000)) for _ in range(100)]
    assert max(sizes) <= 2048
    assert sum(sizes) / len(sizes) > 0.99 * 2048


def test_a_gap_takes_the_longest_that_fits_and_the_oldest_goes_first_next_time() -> None:
    class Sizes(Numbers):
        def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
            size = [60, 50, 10, 40, 20, 70][index] if index < 6 else 90
            return [Document(ids=[index] * size, said=[1] * size, positions=list(range(size)), place=str(index))]

    mixture = Mixture([Sizes("sizes", 0, 0)], {"sizes": 1.0})
    assert places([mixture.batch(100, 1, 100)]) == ["0", "3"]
    assert places([mixture.batch(100, 1, 100)]) == ["1", "2", "4"]
    assert places([mixture.batch(100, 1, 100)]) == ["5"]


def test_documents_nearly_as_long_as_the_batch_go_one_by_one() -> None:
    mixture = Mixture([Numbers("long", 600, 1000)], {"long": 1.0})
    batches = [mixture.batch(1000, 1, 1000) for _ in range(50)]
    assert all(len(batch) == 1 for batch in batches)


def test_nothing_is_given_twice_or_lost() -> None:
    mixture = Mixture(sources(), SHARES)
    given_out = places([mixture.batch(2048, 3, 1000) for _ in range(60)])
    assert len(given_out) == len(set(given_out))
    drawn = {
        f"{source.name}/{index}/{part}"
        for source in sources()
        for index in range(mixture.state()["draws"][source.name])
        for part in range(source.parts)
    }
    waiting = {f"{name}/{index}/{which}" for name, index, which, *_ in mixture.state()["pool"]}
    assert drawn == set(given_out) | waiting and not waiting & set(given_out)


def test_sources_keep_their_shares_of_tokens() -> None:
    mixture = Mixture(sources(), SHARES)
    tokens = Counter[str]()
    for _ in range(100):
        for document in mixture.batch(2048, 3, 1000):
            tokens[document.place.split("/")[0]] += len(document.ids)
    for name, share in SHARES.items():
        assert tokens[name] / tokens.total() == pytest.approx(share, abs=0.01)
    assert mixture.state()["tokens"] == tokens


def test_a_source_without_a_share_is_never_drawn() -> None:
    mixture = Mixture(sources(), {"short": 0.5, "long": 0.5, "turns": 0.0, "rare": 0.0})
    names = {place.split("/")[0] for place in places([mixture.batch(2048, 1, 1000) for _ in range(10)])}
    assert names == {"short", "long"}


def test_a_document_as_long_as_the_batch_is_not_starved_by_short_ones() -> None:
    mixture = Mixture([Numbers("short", 5, 60), Numbers("whole", 1, 1000)], {"short": 0.9, "whole": 0.1})
    given_out = [
        (at, document) for at in range(400) for document in mixture.batch(1000, 1, 1000) if "whole" in document.place
    ]
    gone = {document.ids[0] for _, document in given_out}
    in_order = list(takewhile(gone.__contains__, range(1000)))
    assert len(gone) - len(in_order) < 64  # those missing are the ones that wait
    assert max(len(document.ids) for _, document in given_out) > 950


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(0, 2**16))
def test_a_loaded_mixture_gives_the_same_batches(before: int, seed: int) -> None:
    rng = random.Random(seed)
    plans = [
        (length + rng.randint(0, 500), rng.randint(1, 10), length) for length in rng.choices((300, 700, 1500), k=20)
    ]
    whole = Mixture(sources(), SHARES)
    for plan in plans[:before]:
        whole.batch(*plan)
    state = json.loads(json.dumps(whole.state()))
    rest = [whole.batch(*plan) for plan in plans[before:]]
    resumed = Mixture(sources(), SHARES)
    resumed.load(state)
    assert resumed.state() == state
    assert [resumed.batch(*plan) for plan in plans[before:]] == rest
    assert resumed.state() == whole.state()


def test_a_state_is_a_copy() -> None:
    mixture = Mixture(sources(), SHARES)
    mixture.batch(2048, 1, 1000)
    state = mixture.state()
    kept = json.dumps(state)
    mixture.batch(2048, 1, 1000)
    assert json.dumps(state) == kept
    mixture.load(state)
    mixture.batch(2048, 1, 1000)
    assert json.dumps(state) == kept


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_are_disjoint_and_together_the_whole(world: int) -> None:
    seen = []
    for rank in range(world):
        mixture = Mixture([Numbers("short", 5, 60)], {"short": 1.0}, rank=rank, world=world)
        seen.append({document.ids[0] for _ in range(20) for document in mixture.batch(512, 1, 100)})
    assert sum(map(len, seen)) == len(set().union(*seen))
    for rank, numbers in enumerate(seen):
        assert all(number % world == rank for number in numbers)
    least = min(max(numbers) for numbers in seen)
    missing = set(range(least)) - set().union(*seen)
    assert len(missing) < 64 * world  # they wait in a pool


def test_what_is_too_long_for_a_later_phase_waits_no_more() -> None:
    mixture = Mixture([Numbers("long", 100, 900)], {"long": 1.0})
    mixture.batch(2000, 1, 1000)
    before = {index for _, index, *_ in mixture.state()["pool"]}
    given_out = [mixture.batch(300, 1, 300) for _ in range(200)]
    assert all(0 < size(batch) <= 300 for batch in given_out)
    drawn_before = {document.ids[0] for batch in given_out for document in batch} & before
    assert 0 < len(drawn_before) < len(before)  # those that fit are still given
    assert not before & {index for _, index, *_ in mixture.state()["pool"]}


def test_a_text_of_thousands_of_windows_takes_no_longer_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counted(waiting: _Waiting) -> int:
        nonlocal looks
        looks += 1
        return len(waiting.document.ids)

    monkeypatch.setattr(_Waiting, "size", property(counted))
    mixture = Mixture([Numbers("book", 10, 20, 3000), Numbers("short", 5, 60)], {"book": 0.5, "short": 0.5})
    documents = [document for _ in range(60) for document in mixture.batch(2000, 1, 100)]
    assert len(documents) > 4000 and looks < 150 * len(documents)


def test_data_that_changed_is_refused_with_a_way_on() -> None:
    mixture = Mixture([Numbers("short", 5, 60)], {"short": 1.0})
    mixture.batch(100, 1, 100)
    state = json.loads(json.dumps(mixture.state()))
    state["pool"][0][-1] = "short/0/7"
    says = r"draw \d+ of short was short/0/7 at the checkpoint and is short/\d+/0: the data changed; .* --start FOLDER"
    with pytest.raises(DataError, match=says):
        Mixture([Numbers("short", 5, 60)], {"short": 1.0}).load(state)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="shares are of long, sources are long, rare, short, turns"):
        Mixture(sources(), {"long": 1.0})
    with pytest.raises(DataError, match="sum to 1"):
        Mixture([Numbers("long", 1, 2)], {"long": 0.5})
    state = Mixture(sources(), SHARES).state()
    with pytest.raises(DataError, match="the checkpoint mixes long, rare, short, turns, this run long"):
        Mixture([Numbers("long", 1, 2)], {"long": 1.0}).load(state)
    with pytest.raises(DataError, match="the checkpoint is of rank 0 of 1, this is 1 of 2"):
        Mixture(sources(), SHARES, rank=1, world=2).load(state)
