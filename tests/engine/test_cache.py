"""Slots and pages: what is parked, saved or put comes back bit for bit, wherever it lies then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from minimax_m1.engine.cache import Cache
from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.scheduler import Track
from minimax_m1.errors import RequestError
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import PagedKeyValues
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

SIZE = 4


@pytest.fixture(scope="module")
def model() -> MiniMaxM1ForCausalLM:
    torch.manual_seed(3)
    return MiniMaxM1ForCausalLM(tiny()).eval()


def track(slot: int, pages: list[int], length: int = 0) -> Track:
    return Track(ids=np.arange(40), slot=slot, pages=pages, length=length)


def read(model: MiniMaxM1ForCausalLM, cache: Cache, *tracks: Track, count: int = 9) -> Tensor:
    """Runs the next tokens of each; gives the logits of the last ones."""
    state = cache.read(tracks)
    ids = [each.ids[each.length : each.length + count].tolist() for each in tracks]
    with torch.inference_mode():
        out = model.run(Batch.of(ids, state), state)
        cache.write(tracks, out.state)
    for each in tracks:
        each.length += count
    assert out.logits is not None
    return out.logits


def alone(model: MiniMaxM1ForCausalLM, tokens: int) -> Tensor:
    state = model.empty_state(1)
    with torch.inference_mode():
        out = model.run(Batch.of([list(range(tokens))], state), state)
    assert out.logits is not None
    return out.logits[0]


def cache_of(model: MiniMaxM1ForCausalLM) -> Cache:
    return Cache(model, slots=4, pages=20, size=SIZE)


@pytest.mark.parametrize(
    ("slots", "pages"), [((0, 1), ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])), ((3, 0), ([9, 2, 11, 4, 0], [1, 3, 5, 7, 8]))]
)
def test_sequences_run_side_by_side_from_any_slots_and_pages(
    model: MiniMaxM1ForCausalLM, slots: tuple[int, int], pages: tuple[list[int], list[int]]
) -> None:
    cache = cache_of(model)
    one, two = track(slots[0], pages[0]), track(slots[1], pages[1])
    read(model, cache, one, count=5)
    logits = read(model, cache, one, two)
    torch.testing.assert_close(logits, torch.stack((alone(model, 14), alone(model, 9))))
    one.pages = [*one.pages, 15]  # another list of pages is seen
    logits = read(model, cache, two, one)
    torch.testing.assert_close(logits, torch.stack((alone(model, 18), alone(model, 23))))
    one.pages += [16, 17]  # and so is one that grew
    torch.testing.assert_close(read(model, cache, one)[0], alone(model, 32))


def test_what_is_parked_comes_back_in_another_slot_and_other_pages(model: MiniMaxM1ForCausalLM) -> None:
    cache = cache_of(model)
    one = track(2, [3, 8, 1, 0, 12])
    read(model, cache, one)
    parked = cache.park(one)
    assert [kept.shape[1] for kept in parked.pages] == [3]  # those in use
    read(model, cache, track(2, [3, 8, 1]))  # somebody else takes all of it
    cache.clear(one)
    one.slot, one.pages = 0, [13, 14, 15, 19, 17]
    cache.restore(one, parked)
    torch.testing.assert_close(read(model, cache, one)[0], alone(model, 18))


@pytest.mark.parametrize("start", [0, 3, 4, 9])
@pytest.mark.parametrize("pages", [[6, 7, 8], [6, 9, 8]])
def test_what_is_saved_can_be_put_elsewhere(model: MiniMaxM1ForCausalLM, start: int, pages: list[int]) -> None:
    cache = cache_of(model)
    one = track(1, [3, 4, 0])
    read(model, cache, one, count=10)
    snapshot, first = cache.save(one, start), cache.save(one, 0)
    assert (snapshot.start, snapshot.stop) == (start, 10)
    assert [part.shape for part in snapshot.keys_values] == [(2, 10 - start, 2, 8)]
    assert torch.equal(snapshot.keys_values[0], first.keys_values[0][:, start:])
    two = track(3, [*pages, 2, 5], length=10)
    for places in (slice(0, start), slice(start, 10)):
        cache.put(two, places.start, [part[:, places] for part in first.keys_values])
    cache.set_lightning(two, snapshot.lightning)
    read(model, cache, track(1, [3, 4, 0]))  # a snapshot is nobody else's
    torch.testing.assert_close(read(model, cache, two)[0], alone(model, 19))


def test_keys_beyond_the_pages_are_refused_before_they_are_anybody_elses(model: MiniMaxM1ForCausalLM) -> None:
    cache = cache_of(model)
    with pytest.raises(IndexError):
        cache.put(track(0, [1, 2]), 0, [torch.zeros(2, 9, 2, 8)])
    with pytest.raises(ValueError, match="zip"):
        cache.put(track(0, [1, 2]), 0, [])


def test_a_page_is_copied_whole_in_every_layer(model: MiniMaxM1ForCausalLM) -> None:
    cache = cache_of(model)
    one = track(0, [3, 4, 0])
    read(model, cache, one, count=6)
    cache.copy_page(4, 9)
    two = track(1, [3, 9, 10, 11], length=6)
    cache.set_lightning(two, cache.lightning(one))
    read(model, cache, one, count=2)  # goes on in its own page
    torch.testing.assert_close(read(model, cache, two)[0], alone(model, 15))


def test_a_copy_of_a_slot_stays_as_it_was(model: MiniMaxM1ForCausalLM) -> None:
    cache = cache_of(model)
    one = track(0, [0, 1, 2, 3, 4])
    read(model, cache, one)
    kept = cache.lightning(one)
    before = [each.clone() for each in kept]
    read(model, cache, one)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    cache.clear(one)
    assert all(each.abs().sum() == 0 for each in cache.lightning(one))


def test_the_pool_is_as_large_as_told(model: MiniMaxM1ForCausalLM) -> None:
    page = 2 * SIZE * 2 * 8 * 4  # keys and values, tokens, heads, width, bytes
    config = EngineConfig(page_size=SIZE, max_num_seqs=3, kv_cache_bytes=10 * page + 5)
    cache, count, longest = Cache.fitting(model, config, None)
    assert (count, longest) == (10, 40)
    kept = cache.read([track(0, [0])]).softmax[0]
    assert isinstance(kept, PagedKeyValues)
    assert kept.data.shape == (2, 10, SIZE, 2, 8)
    assert Cache.fitting(model, config, 40)[1:] == (10, 40)
    assert Cache.fitting(model, config, 33)[1:] == (10, 33)


def test_without_a_number_the_pool_holds_all_sequences_or_a_gibibyte(model: MiniMaxM1ForCausalLM) -> None:
    limit = model.config.max_position_embeddings
    assert Cache.fitting(model, EngineConfig(max_num_seqs=2, page_size=SIZE), 100)[1:] == (50, 100)
    _, count, longest = Cache.fitting(model, EngineConfig(max_num_seqs=1, page_size=SIZE), None)
    assert (count, longest) == (-(-limit // SIZE), limit)


def test_a_window_that_does_not_fit_is_refused_with_the_numbers(model: MiniMaxM1ForCausalLM) -> None:
    limit = model.config.max_position_embeddings
    page = 2 * SIZE * 2 * 8 * 4
    small = EngineConfig(page_size=SIZE, kv_cache_bytes=10 * page)
    with pytest.raises(RequestError, match=f"41 tokens take {11 * page} bytes .* {10 * page}") as told:
        Cache.fitting(model, small, 41)
    assert told.value.param == "kv_cache_bytes"
    with pytest.raises(RequestError, match=f"{limit} tokens take"):
        Cache.fitting(model, EngineConfig(page_size=SIZE, kv_cache_bytes=page - 1), None)
    for wrong in (1, 0, -5, limit + 1):
        with pytest.raises(RequestError, match=f"between 2 and the model's {limit}, got {wrong}"):
            Cache.fitting(model, small, wrong)


def test_a_model_without_softmax_needs_no_pool() -> None:
    model = MiniMaxM1ForCausalLM(tiny().replace(attn_type_list=(0, 0, 0, 0)))
    _, count, longest = Cache.fitting(model, EngineConfig(kv_cache_bytes=1, max_num_seqs=2), 1000)
    assert (count, longest) == (2 * 4, 1000)
