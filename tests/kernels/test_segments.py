"""Block tables: every row once, levels as slices of the longest sequences first."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.kernels.segments import Segments


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.sampled_from([1, 4, 16]))
def test_blocks_hold_every_row_once(lengths: list[int], size: int) -> None:
    segments = Segments.of(lengths)
    blocks = segments.blocks(size, torch.device("cpu"))
    rows = torch.arange(segments.total)
    padded = torch.cat((rows, torch.tensor([-1])))
    placed = rows if blocks.gather is None else padded[blocks.gather]
    assert sorted(r for r in placed.tolist() if r >= 0) == rows.tolist()
    assert (blocks.scatter is None) == (blocks.gather is None)
    if blocks.scatter is not None:
        assert torch.equal(placed[blocks.scatter], rows)
    assert int(blocks.lengths.sum()) == segments.total
    assert sum(count for _, count in blocks.levels) == len(blocks.lengths)
    for level, (_, count) in enumerate(blocks.levels):
        reaching = [n for n in range(len(lengths)) if lengths[n] > level * size]
        assert sorted(blocks.order[:count].tolist()) == reaching


@given(st.lists(st.integers(0, 3), max_size=6))
def test_sequences_of_one_token_stand_apart(lengths: list[int]) -> None:
    segments = Segments.of(lengths)
    rows, sequences = torch.arange(segments.total), torch.arange(len(segments))
    parts = segments.parts(torch.device("cpu"))
    assert parts is segments.parts(torch.device("cpu"))
    mixed = 1 in lengths and set(lengths) != {1}
    assert [part.segments.single_tokens for part in parts] == ([True, False] if mixed else [])
    for part in parts:
        chosen = sequences[part.sequences].tolist()
        assert chosen == [n for n in range(len(lengths)) if (lengths[n] == 1) == part.segments.single_tokens]
        assert part.segments.lengths == [lengths[n] for n in chosen]
        own = [rows[segments.cu_seqlens[n] : segments.cu_seqlens[n + 1]] for n in chosen]
        assert torch.equal(rows[part.rows], torch.cat(own))


def test_parts_that_lie_side_by_side_are_slices() -> None:
    singles, others = Segments.of([1, 1, 1, 5, 0, 7]).parts(torch.device("cpu"))
    assert (singles.rows, singles.sequences) == (slice(0, 3), slice(0, 3))
    assert (others.rows, others.sequences) == (slice(3, 15), slice(3, 6))


def test_tables_are_kept_for_the_next_layer() -> None:
    segments = Segments.of([5, 9])
    assert segments.blocks(4, torch.device("cpu")) is segments.blocks(4, torch.device("cpu"))


def test_libraries_are_told_where_sequences_begin() -> None:
    segments = Segments.of([3, 0, 5])
    starts = segments.starts(torch.device("cpu"))
    assert starts.dtype is torch.int32 and starts.tolist() == [0, 3, 3, 8]
    assert segments.starts(torch.device("cpu")) is starts
