"""Rotary positions: the angle is the position's, scores see distances only, the other dimensions pass through."""

from __future__ import annotations

import math

import pytest
import torch

from minimax_m1.kernels.rope.reference import rope, rope_tables, rotate_and_store


@pytest.mark.parametrize("rotary", [0, 2, 6, 8])
def test_the_rest_of_the_head_passes_through(rotary: int) -> None:
    x = torch.randn(5, 2, 8, dtype=torch.float64)
    out = rope(x, *rope_tables(torch.arange(5), rotary, 1e4, torch.float64))
    assert torch.equal(out[..., rotary:], x[..., rotary:])
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(out[0], x[0])


def test_dimension_i_turns_with_i_plus_half() -> None:
    x = torch.zeros(1, 1, 8, dtype=torch.float64)
    x[..., 1] = 1
    out = rope(x, *rope_tables(torch.tensor([3]), 4, 1e4, torch.float64))
    angle = 3 * 1e4 ** (-2 / 4)
    torch.testing.assert_close(out[0, 0, [1, 3]], torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64))


def test_scores_depend_on_distance() -> None:
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def score(at: int, other: int) -> torch.Tensor:
        tables = [rope_tables(torch.tensor([p]), 8, 1e4, torch.float64) for p in (at, other)]
        return (rope(q, *tables[0]) * rope(k, *tables[1])).sum()

    torch.testing.assert_close(score(10, 4), score(1010, 1004))


def test_bfloat16_heads_are_rotated_in_float32() -> None:
    x = torch.randn(3, 2, 8).bfloat16()
    tables = rope_tables(torch.tensor([100_000, 200_001, 999_999]), 8, 1e7, torch.float32)
    assert torch.equal(rope(x, *tables), rope(x.float(), *tables).bfloat16())


def test_a_step_keeps_rotated_keys_and_values_in_their_places() -> None:
    q, k, v = torch.randn(3, 4, 8), torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    tables = rope_tables(torch.tensor([7, 0, 31]), 6, 1e4, torch.float32)
    pools = torch.zeros(2, 4, 16, 2, 8)
    out = rotate_and_store(q, k, v, *tables, *pools, torch.tensor([35, -1, 0]))
    assert torch.equal(out, rope(q, *tables))
    expected = torch.zeros(2, 64, 2, 8)
    expected[0, [35, 0]], expected[1, [35, 0]] = rope(k, *tables)[[0, 2]], v[[0, 2]]
    assert torch.equal(pools.flatten(1, 2), expected)
