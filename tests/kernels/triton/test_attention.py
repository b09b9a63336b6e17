"""Attention over pages in Triton, and the op that a model calls, against the plain one in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from minimax_m1.kernels.attention import reference
from minimax_m1.kernels.attention.triton import Tiles, attention, gather, out_of_pages, paged_attention
from minimax_m1.kernels.attention.triton_prefill import Tiles as PrefillTiles
from minimax_m1.kernels.attention.triton_prefill import paged_prefill
from minimax_m1.kernels.pages import BlockTable, Paged, PageTable
from minimax_m1.kernels.segments import Segments

SMALL = Tiles(tile=16, stretch=32, programs=3, merges=4)  # so that short sequences have several of everything


def paged(
    lengths: list[int], size: int, groups: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Paged, Paged]:
    """Scattered pages of two pools that lie in one tensor; places that nobody holds are NaN."""
    counts = [-(-length // size) for length in lengths]
    free = np.random.default_rng(0).permutation(sum(counts) + 2).astype(np.int64)
    ends = np.cumsum(counts)
    table = PageTable(tuple(np.split(free[: ends[-1]], ends[:-1])), tuple(lengths), size)
    pool = torch.full((2, sum(counts) + 2, size, groups, width), float("nan"), dtype=dtype)
    for pages, length in zip(table.pages, lengths, strict=True):
        for t in range(length):
            pool[:, pages[t // size], t % size] = torch.randn(2, groups, width).to(dtype)
    keys, values = pool.to(device)
    return Paged(keys, table), Paged(values, table)


def exact(q: torch.Tensor, keys: Paged, values: Paged, segments: Segments) -> torch.Tensor:
    def wide(held: Paged) -> list[torch.Tensor]:
        return [each.double() for each in held]

    return reference.attention(q.double(), wide(keys), wide(values), segments)


def assert_near(name: str, mine: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    off = (mine.double() - expected).norm() / expected.norm()
    assert off < bound, f"{name} is off by {off:.1e} of its norm"


BOUNDS = [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)]


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("heads", [(2, 8, 32), (3, 3, 48), (1, 8, 16)])
@pytest.mark.parametrize("size", [16, 64])
def test_decode_equals_plain_on_scattered_pages(
    size: int, heads: tuple[int, int, int], dtype: torch.dtype, bound: float, device: torch.device
) -> None:
    groups, count, width = heads
    lengths = [1, 33, 32, 150, 15]
    keys, values = paged(lengths, size, groups, width, dtype, device)
    q = torch.randn(len(lengths), count, width).to(dtype).to(device)
    out = paged_attention(q, keys.pool, values.pool, keys.table.blocks(device), tiles=SMALL)
    assert out.dtype is dtype
    for n, expected in enumerate(exact(q, keys, values, Segments.of([1] * len(lengths)))):
        assert_near(f"sequence {n} of {lengths[n]} tokens", out[n], expected, bound)


def test_more_stretches_than_are_put_together_at_a_time(device: torch.device) -> None:
    keys, values = paged([1100], 64, 1, 16, torch.float32, device)  # 35, the highest scores in the middle
    keys.pool[int(keys.table.pages[0][9])] *= 3
    q = torch.randn(1, 3, 16, device=device)
    out = paged_attention(q, keys.pool, values.pool, keys.table.blocks(device), tiles=SMALL)
    assert_near("out", out, exact(q, keys, values, Segments.of([1])), 1e-6)


def test_the_default_tiles_and_a_wide_table_say_the_same(device: torch.device) -> None:
    lengths = [1030, 70]
    keys, values = paged(lengths, 256, 1, 16, torch.float32, device)
    q, table = torch.randn(2, 4, 16, device=device), keys.table.blocks(device)
    out = paged_attention(q, keys.pool, values.pool, table)
    assert_near("out", out, exact(q, keys, values, Segments.of([1, 1])), 1e-6)
    wide = torch.full((2, 4096), -1, dtype=torch.int32, device=device)  # what lies behind a sequence is not read
    wide[:, : table.pages.shape[1]] = table.pages
    again = paged_attention(q, keys.pool, values.pool, BlockTable(wide, table.lengths))
    assert torch.equal(again, out)


def test_rows_of_nobody_are_zeros_and_the_others_do_not_see_them(device: torch.device) -> None:
    lengths = [70, 40]
    keys, values = paged(lengths, 16, 2, 16, torch.float32, device)
    q, table = torch.randn(4, 4, 16, device=device), keys.table.blocks(device)
    pages = torch.full((4, table.pages.shape[1]), -1, dtype=torch.int32, device=device)
    pages[1:3] = table.pages
    padded = BlockTable(pages, torch.tensor([0, *lengths, 0], dtype=torch.int32, device=device))
    for tiles in (SMALL, replace(SMALL, stretch=1024)):
        out = paged_attention(q, keys.pool, values.pool, padded, tiles=tiles)
        assert torch.equal(out[[0, 3]], torch.zeros(2, 4, 16, device=device))
        assert torch.equal(out[1:3], paged_attention(q[1:3], keys.pool, values.pool, table, tiles=tiles))


def test_a_row_has_the_same_bits_in_any_batch_on_any_number_of_programs(device: torch.device) -> None:
    lengths = [200, 1, 90, 32, 33]
    keys, values = paged(lengths, 16, 2, 16, torch.float32, device)
    q, table = torch.randn(5, 4, 16, device=device), keys.table.blocks(device)
    together = paged_attention(q, keys.pool, values.pool, table, tiles=SMALL)
    for n in range(5):
        alone = keys.table.row(n).blocks(device)
        for programs in (1, 64):
            out = paged_attention(q[n : n + 1], keys.pool, values.pool, alone, tiles=replace(SMALL, programs=programs))
            assert torch.equal(out[0], together[n]), f"sequence {n} on {programs} programs"


def test_stretches_grow_where_there_is_no_room_for_so_many(device: torch.device) -> None:
    lengths = [300, 7, 129, 0]
    keys, values = paged(lengths, 16, 1, 16, torch.float32, device)
    q = torch.randn(4, 2, 16, device=device)
    scarce = replace(SMALL, rows=2)  # six rows for sixteen stretches
    out = paged_attention(q, keys.pool, values.pool, keys.table.blocks(device), tiles=scarce)
    expected = exact(q[:3], *(Paged(x.pool, PageTable(x.table.pages[:3], (300, 7, 129), 16)) for x in (keys, values)),
                     Segments.of([1, 1, 1]))  # fmt: skip
    assert_near("out", out[:3], expected, 1e-6)
    assert not out[3].any()


def test_pools_may_be_parts_of_a_tensor_and_of_another_dtype(device: torch.device) -> None:
    keys, values = paged([50, 20], 16, 4, 16, torch.float32, device)
    every_second = [Paged(held.pool[:, :, ::2], held.table) for held in (keys, values)]
    q, segments = torch.randn(2, 4, 16, device=device), Segments.of([1, 1])
    out = paged_attention(q, *(held.pool for held in every_second), keys.table.blocks(device), tiles=SMALL)
    assert_near("strided", out, exact(q, *every_second, segments), 1e-6)
    low = q.bfloat16()
    out = paged_attention(low, keys.pool, values.pool, keys.table.blocks(device), tiles=SMALL)
    assert out.dtype is torch.bfloat16
    assert_near("bfloat16 queries", out, exact(low, keys, values, segments), 1e-2)


def test_scores_far_apart_or_far_below_zero_stay_exact(device: torch.device) -> None:
    keys, values = paged([100], 16, 1, 16, torch.float32, device)
    for pool in (keys.pool, keys.pool.abs()):
        q, segments = torch.full((1, 2, 16), -100.0, device=device), Segments.of([1])
        held = Paged(pool, keys.table)
        out = paged_attention(q, pool, values.pool, keys.table.blocks(device), tiles=SMALL)
        assert_near("out", out, exact(q, held, values, segments), 1e-4)


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")  # the interpreter's numpy remarks on it
def test_a_broken_key_value_or_query_shows_in_its_sequence_alone(device: torch.device) -> None:
    keys, values = paged([50, 50], 16, 1, 16, torch.float32, device)
    q, table = torch.randn(2, 2, 16, device=device), keys.table.blocks(device)
    for place in (keys.pool, values.pool, q):
        whole = place.clone()
        broken = place[1, 1] if place is q else place[int(keys.table.pages[1][3]), 1, 0]  # its last token
        broken[2] = float("nan")
        out = paged_attention(q, keys.pool, values.pool, table, tiles=SMALL)
        assert out[0].isfinite().all() and out[1].isnan().any()
        place.copy_(whole)


def test_no_sequences_are_no_rows(device: torch.device) -> None:
    pool = torch.randn(1, 16, 1, 16, device=device)
    table = PageTable((), (), 16).blocks(device)
    assert paged_attention(torch.randn(0, 2, 16, device=device), pool, pool, table).shape == (0, 2, 16)


@pytest.mark.parametrize(
    ("width", "size", "dtype", "said"),
    [(24, 16, torch.float32, "multiple of 16"), (272, 16, torch.float32, r"\[1, 2, 272\]"),
     (16, 24, torch.float32, r"\[1, 24, 1, 16\]"), (16, 8, torch.float32, "power of two"),
     (16, 16, torch.float64, r"\[1, 2, 16\] in torch.float64")],
)  # fmt: skip
def test_other_shapes_are_refused_by_name(
    width: int, size: int, dtype: torch.dtype, said: str, device: torch.device
) -> None:
    pool = torch.randn(1, size, 1, width, dtype=dtype, device=device)
    table = BlockTable(*(torch.ones(shape, dtype=torch.int32, device=device) for shape in ((1, 1), (1,))))
    with pytest.raises(ValueError, match=said):
        paged_attention(torch.randn(1, 2, width, dtype=dtype, device=device), pool, pool, table)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows that go to `paged_attention`, call by call."""
    from minimax_m1.kernels.attention import triton

    rows: list[int] = []

    def counted(q: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        rows.append(len(q))
        return paged_attention(q, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(triton, "paged_attention", counted)
    yield rows


@pytest.mark.parametrize(("new", "held"), [([7, 1, 40], [7, 90, 75]), ([3], [260]), ([17, 0, 2], [17, 30, 130])])
def test_rows_out_of_pages_meet_a_library(new: list[int], held: list[int], device: torch.device) -> None:
    keys, values = paged(held, 16, 2, 32, torch.float32, device)
    q, segments = torch.randn(sum(new), 4, 32, device=device), Segments.of(new)
    out = out_of_pages(q, keys, values, keys.table.blocks(device), segments, held)
    assert_near("out", out, exact(q, keys, values, segments), 1e-6)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(("size", "heads"), [(16, (2, 8, 32)), (5, (3, 3, 48)), (64, (1, 4, 16)), (16, (1, 2, 144))])
@pytest.mark.parametrize(("new", "held"), [([7, 1, 40], [7, 90, 75]), ([70], [131]), ([17, 0, 2], [17, 30, 130])])
def test_several_queries_against_pages_equal_plain(
    new: list[int],
    held: list[int],
    size: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    bound: float,
    device: torch.device,
) -> None:
    groups, count, width = heads
    keys, values = paged(held, size, groups, width, dtype, device)
    q, segments = torch.randn(sum(new), count, width).to(dtype).to(device), Segments.of(new)
    small = PrefillTiles(queries=16, keys=16)
    for tiles in (small, None):
        out = paged_prefill(q, keys.pool, values.pool, keys.table.blocks(device), segments, tiles=tiles)
        assert out.dtype is dtype
        for n, (mine, told) in enumerate(zip(out.split(new), exact(q, keys, values, segments).split(new), strict=True)):
            if len(mine):
                assert_near(f"sequence {n}", mine, told, bound)


def test_prefill_refuses_other_shapes_by_name(device: torch.device) -> None:
    keys, values = paged([8], 16, 1, 24, torch.float32, device)
    table, segments = keys.table.blocks(device), Segments.of([2])
    with pytest.raises(ValueError, match=r"\[2, 1, 24\] .* multiple of 16"):
        paged_prefill(torch.randn(2, 1, 24, device=device), keys.pool, values.pool, table, segments)
    with pytest.raises(ValueError, match="float64"):
        paged_prefill(torch.randn(2, 1, 32, device=device).double(), keys.pool, values.pool, table, segments)


@pytest.mark.parametrize(
    ("new", "past", "decodes"),
    [([1, 1, 1], [0, 40, 17], [3]), ([5], [12], []), ([1, 9, 1, 3], [20, 0, 3, 30], [2]),
     ([0, 1, 4], [5, 6, 7], [1]), ([0, 1], [16, 9], [1]), ([0, 0], [3, 0], []), ([2, 0, 7], [0, 9, 33], [])],
)  # fmt: skip
def test_any_batch_in_pages_equals_plain(
    new: list[int], past: list[int], decodes: list[int], asked: list[int], device: torch.device
) -> None:
    lengths = [a + b for a, b in zip(new, past, strict=True)]
    keys, values = paged(lengths, 16, 2, 16, torch.float32, device)
    q, segments = torch.randn(sum(new), 4, 16, device=device), Segments.of(new)
    out = attention(q, keys, values, segments)
    assert out.shape == q.shape and asked == decodes
    if sum(new):
        assert_near("out", out, exact(q, keys, values, segments), 1e-6)


def test_where_a_gradient_is_asked_for_pages_give_it(asked: list[int], device: torch.device) -> None:
    keys, values = paged([20, 9], 16, 2, 16, torch.float32, device)
    segments, grads = Segments.of([1, 3]), []
    for op, dtype in ((attention, torch.float32), (reference.attention, torch.float64)):
        q = torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(1)).to(device, dtype).requires_grad_()
        held = (keys, values) if op is attention else ([x.double() for x in keys], [x.double() for x in values])
        op(q, *held, segments).square().sum().backward()
        grads.append(q.grad)
    assert not asked
    assert_near("gradient of q", grads[0], grads[1], 1e-5)


def test_gathered_rows_are_the_sequences_in_order(device: torch.device) -> None:
    lengths = [0, 37, 16, 5]
    keys, values = paged(lengths, 16, 3, 16, torch.bfloat16, device)
    starts = torch.tensor([0, 0, 37, 53, 58], dtype=torch.int32, device=device)
    rows = gather(keys.pool, values.pool, keys.table.blocks(device), starts, lengths)
    for mine, held in zip(rows, (keys, values), strict=True):
        assert torch.equal(mine, torch.cat(list(held)))
