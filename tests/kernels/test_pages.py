"""Keys and values in pages: what each sequence sees of the pool, where new tokens go, and what kernels are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.kernels.pages import Paged, PageTable
from minimax_m1.kernels.segments import Segments

CPU = torch.device("cpu")


def table(lengths: list[int], size: int, seed: int = 0, spare: int = 0) -> tuple[PageTable, int]:
    """Scattered pages for each sequence, `spare` more than it needs, and the number of pages of the pool."""
    counts = [-(-length // size) + spare for length in lengths]
    pages = np.random.default_rng(seed).permutation(sum(counts) + 1).astype(np.int64)
    ends = np.cumsum(counts)
    return PageTable(tuple(np.split(pages[: ends[-1]], ends[:-1])), tuple(lengths), size), sum(counts) + 1


def plain(pool: torch.Tensor, pages: PageTable, row: int) -> torch.Tensor:
    """Token by token, [L, G, D]."""
    at = [(int(pages.pages[row][t // pages.size]), t % pages.size) for t in range(pages.lengths[row])]
    return torch.stack([pool[page, place] for page, place in at]) if at else pool.new_empty(0, *pool.shape[2:])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 17), st.integers(0, 2))
def test_a_sequence_sees_its_tokens_in_order(lengths: list[int], size: int, spare: int) -> None:
    pages, count = table(lengths, size, spare=spare)
    pool = torch.arange(count * size * 6.0).view(count, size, 3, 2)
    held = Paged(pool, pages)
    assert len(held) == len(list(held)) == len(lengths)
    for row in range(len(lengths)):
        assert torch.equal(held[row], plain(pool, pages, row))
        assert torch.equal(Paged(pool, pages.row(row))[0], held[row])
        assert torch.equal(held[row:][0], held[row])


def test_pages_side_by_side_are_a_view_and_others_a_copy() -> None:
    pool = torch.arange(6 * 4 * 2.0).view(6, 4, 1, 2)
    beside, apart = np.array([2, 3, 4]), np.array([2, 4, 3])
    held = Paged(pool, PageTable((beside, apart), (10, 10), 4))
    assert held[0].data_ptr() == pool[2].data_ptr() and held[0].shape == (10, 1, 2)
    assert held[1].untyped_storage().data_ptr() != pool.untyped_storage().data_ptr()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=4), st.integers(1, 17))
def test_new_tokens_go_behind_the_old_ones(shape: list[tuple[int, int]], size: int) -> None:
    old, new = [past for past, _ in shape], [more for _, more in shape]
    full, count = table([past + more for past, more in shape], size)
    before, segments = PageTable(full.pages, tuple(old), size), Segments.of(new)
    pool = torch.full((count, size, 1, 1), -1.0)
    rows = pool.view(-1, 1, 1)
    rows[before.places(segments, CPU)] = torch.arange(float(segments.total)).view(-1, 1, 1)
    after = before.after(segments)
    assert after.lengths == full.lengths
    for held, past, tokens in zip(Paged(pool, after), old, torch.arange(float(segments.total)).split(new), strict=True):
        assert (held[:past] == -1).all() and torch.equal(held[past:].flatten(), tokens)
    assert int((pool >= 0).sum()) == segments.total


def test_tables_are_made_once_for_all_layers() -> None:
    pages, _ = table([5, 9], 4, spare=1)
    segments, same = Segments.of([1, 3]), Segments.of([1, 3])
    assert pages.after(segments) is pages.after(same)
    assert pages.places(segments, CPU) is pages.places(same, CPU)
    assert pages.flat(CPU) is pages.flat(CPU)


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(1, 17), st.integers(0, 2))
def test_kernels_are_told_the_pages_in_use(lengths: list[int], size: int, spare: int) -> None:
    pages, _ = table(lengths, size, spare=spare) if lengths else (PageTable((), (), size), 0)
    flat, firsts = pages.flat(CPU)
    used = [-(-length // size) for length in lengths]
    assert len(flat) == sum(used) and len(firsts) == len(lengths)
    for row, (first, count) in enumerate(zip(firsts, used, strict=True)):
        assert flat[first : first + count].tolist() == pages.pages[row][:count].tolist()


def test_a_token_without_a_page_is_our_mistake() -> None:
    pages = PageTable((np.array([1, 0]),), (7,), 4)
    assert pages.places(Segments.of([1]), CPU).tolist() == [3]
    with pytest.raises(AssertionError):
        pages.places(Segments.of([2]), CPU)
    with pytest.raises(AssertionError):
        PageTable((np.array([1, 0]),), (9,), 4).flat(CPU)


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(1, 17), st.integers(0, 2))
def test_a_gpu_is_told_the_pages_in_use_row_by_row(lengths: list[int], size: int, spare: int) -> None:
    pages, _ = table(lengths, size, spare=spare) if lengths else (PageTable((), (), size), 0)
    blocks = pages.blocks(CPU)
    assert pages.blocks(CPU) is blocks
    assert blocks.pages.dtype == blocks.lengths.dtype == torch.int32
    assert blocks.lengths.tolist() == lengths
    assert blocks.pages.shape == (len(lengths), max([-(-length // size) for length in lengths], default=0))
    for row, held, length in zip(blocks.pages.tolist(), pages.pages, lengths, strict=True):
        assert row[: -(-length // size)] == held[: -(-length // size)].tolist()
