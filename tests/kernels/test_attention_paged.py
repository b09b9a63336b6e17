"""Attention over pages, compiled and not, against the plain one on the same tokens laid out in a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.kernels.attention import reference
from minimax_m1.kernels.attention import torch as fast
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.pages import Paged, PageTable
from minimax_m1.kernels.segments import Segments


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def paged(lengths: list[int], size: int, groups: int, width: int, *, shared: int = 0) -> tuple[Paged, Paged]:
    """Scattered pages, the first `shared` the same for all sequences; rows of the pool that nobody holds are NaN."""
    generator = torch.Generator().manual_seed(len(lengths))
    counts = [-(-length // size) for length in lengths]
    free = iter(np.random.default_rng(0).permutation(sum(counts) + 3).astype(np.int64))
    common = [next(free) for _ in range(min(shared, *counts, max(counts)))]
    pages = tuple(np.array(common + [next(free) for _ in range(count - len(common))], np.int64) for count in counts)
    table = PageTable(pages, tuple(lengths), size)
    pool = torch.full((2, sum(counts) + 3, size, groups, width), float("nan"))
    for held, length in zip(pages, lengths, strict=True):
        for t in range(length):
            pool[:, held[t // size], t % size] = torch.randn(2, groups, width, generator=generator)
    return Paged(pool[0], table), Paged(pool[1], table)


def compare(lengths: list[int], new: list[int], size: int, heads: tuple[int, int, int], **options: int) -> None:
    groups, count, width = heads
    keys, values = paged(lengths, size, groups, width, **options)
    q = torch.randn(sum(new), count, width, generator=torch.Generator().manual_seed(1))
    segments = Segments.of(new)
    exact = reference.attention(q.double(), [k.double() for k in keys], [v.double() for v in values], segments)
    for attention in (Ops.cpu().attention, fast.attention):
        with torch.inference_mode():
            out = attention(q, keys, values, segments)
        assert out.shape == q.shape and out.dtype == torch.float32
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [1, 3, 16, 256])
@pytest.mark.parametrize("heads", [(1, 1, 1), (2, 8, 32), (4, 4, 64), (1, 6, 24), (3, 3, 7), (2, 32, 128)])
def test_compiled_equals_plain_on_scattered_pages(size: int, heads: tuple[int, int, int]) -> None:
    lengths = [1, 255, 256, 257, 2, 515, 16, 17, 48]
    compare(lengths, [1] * len(lengths), size, heads)


@pytest.mark.parametrize("heads", [(1, 1, 1), (2, 8, 32), (4, 4, 64), (1, 6, 24), (3, 3, 7)])
def test_bfloat16_is_rounded_once(heads: tuple[int, int, int], threads: int) -> None:
    lengths, (groups, count, width) = [1, 255, 257, 2, 2100, 17], heads
    keys, values = (Paged(held.pool.bfloat16(), held.table) for held in paged(lengths, 16, groups, width))
    q, segments = torch.randn(len(lengths) + 1, count, width).bfloat16(), Segments.of([1, 1, 2, 1, 1, 1])
    exact = reference.attention(q.double(), [k.double() for k in keys], [v.double() for v in values], segments)
    with torch.inference_mode():
        out = Ops.cpu().attention(q, keys, values, segments)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=1e-6)
    assert (out == exact.bfloat16()).float().mean() > 0.98


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 7)), min_size=1, max_size=6),
    st.sampled_from([1, 2, 5, 16, 64]),
    st.integers(0, 2),
)
def test_rows_with_none_one_and_many_queries_share_a_batch(
    shape: list[tuple[int, int]], size: int, shared: int
) -> None:
    compare([past + new for past, new in shape], [new for _, new in shape], size, (2, 4, 8), shared=shared)


def test_many_sequences_on_any_number_of_threads(threads: int) -> None:
    compare([40 * n + 1 for n in range(40)], [1] * 40, 16, (2, 8, 32))
    compare([9000], [1], 64, (2, 8, 32))  # one alone is worth them all
    compare([2050], [4], 64, (2, 8, 32))  # its queries see 8 and 9 stretches


def test_a_row_has_the_same_bits_in_any_batch_on_any_number_of_threads(threads: int) -> None:
    lengths = [3000, 1, 700, 5000, 256]
    keys, values = paged(lengths, 16, 2, 32)
    q = torch.randn(5, 8, 32)
    with torch.inference_mode():
        together = Ops.cpu().attention(q, keys, values, Segments.of([1] * 5))
        several = Ops.cpu().attention(q[[0, 0, 0]], keys, values, Segments.of([3, 0, 0, 0, 0]))
        assert torch.equal(several[2], together[0])
        torch.set_num_threads(1)
        for n in range(5):
            table = keys.table.row(n)
            alone = q[n : n + 1], Paged(keys.pool, table), Paged(values.pool, table), Segments.of([1])
            assert torch.equal(Ops.cpu().attention(*alone), together[n : n + 1])


@pytest.mark.parametrize("below_zero", [False, True])
def test_scores_far_apart_or_all_far_below_zero_stay_exact(below_zero: bool) -> None:
    keys, values = paged([600], 16, 1, 8)
    if below_zero:
        keys.pool.abs_()
    q = torch.full((1, 2, 8), -300.0)
    segments = Segments.of([1])
    exact = reference.attention(q.double(), [keys[0].double()], [values[0].double()], segments)
    with torch.inference_mode():
        out = Ops.cpu().attention(q, keys, values, segments)
    torch.testing.assert_close(out.double(), exact, rtol=1e-3, atol=1e-3)


def test_a_broken_key_or_query_shows() -> None:
    keys, values = paged([300, 300], 16, 1, 8)
    q = torch.randn(2, 2, 8)
    for place in (keys.pool, values.pool, q):
        whole = place.clone()
        if place is q:
            place[1, 1, 3] = float("nan")
        else:
            place[keys.table.pages[1][18], 11, 0, 2] = float("nan")  # its last token
        with torch.inference_mode():
            out = Ops.cpu().attention(q, keys, values, Segments.of([1, 1]))
        assert out[0].isfinite().all() and out[1].isnan().any()
        place.copy_(whole)


def test_what_is_not_compiled_is_left_to_torch() -> None:
    keys, values = paged([30, 9], 4, 1, 8)
    segments, q = Segments.of([1, 1]), torch.randn(2, 2, 8)
    low = [Paged(held.pool.half(), held.table) for held in (keys, values)]
    wide = [Paged(held.pool.repeat(1, 1, 2, 1)[:, :, ::2], held.table) for held in (keys, values)]
    with torch.inference_mode():
        for query, held in ((q.half(), low), (q, wide)):
            assert torch.equal(Ops.cpu().attention(query, *held, segments), fast.attention(query, *held, segments))
    out = Ops.cpu().attention(q.requires_grad_(), keys, values, segments)
    assert out.requires_grad


def test_pages_are_gathered_once_and_only_where_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values = paged([700, 40, 9], 4, 1, 8)
    gathered: list[int] = []

    def counted(held: Paged, index: Any) -> Any:
        if isinstance(index, int):
            gathered.append(index)
        return get(held, index)

    get = Paged.__getitem__
    monkeypatch.setattr(Paged, "__getitem__", counted)
    with torch.inference_mode():
        fast.attention(torch.randn(604, 2, 8), keys, values, Segments.of([600, 0, 4]))
        assert sorted(gathered) == [0, 0, 2, 2]
        gathered.clear()
        Ops.cpu().attention(torch.randn(604, 2, 8), keys, values, Segments.of([600, 0, 4]))
        assert gathered == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[1], [700], [3, 256, 1000]])
def test_one_query_each_outside_pages_runs_compiled_too(dtype: torch.dtype, lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    q = torch.randn(len(lengths), 8, 32, generator=generator).to(dtype)
    spare = [torch.randn(2, length + 5, 2, 32, generator=generator).to(dtype) for length in lengths]
    keys, values = ([each[part, :-5] for each in spare] for part in (0, 1))
    segments = Segments.of([1] * len(lengths))
    with torch.inference_mode():
        out = Ops.cpu().attention(q, keys, values, segments)
    expected = reference.attention(q.double(), [k.double() for k in keys], [v.double() for v in values], segments)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-2)
