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


def test_tables_are_kept_for_the_next_layer() -> None:
    segments = Segments.of([5, 9])
    assert segments.blocks(4, torch.device("cpu")) is segments.blocks(4, torch.device("cpu"))
