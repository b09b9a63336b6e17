"""The decode step of a lightning mixer, said plainly, against its formula number by number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minimax_m1.kernels.recurrent.reference import recurrent
from minimax_m1.kernels.slots import Slots

HEADS, WIDTH, EPS = 2, 3, 1e-6


def drawn(rows: int, slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """qkv, gate, norm, slopes, pool."""
    torch.manual_seed(0)
    inner = HEADS * WIDTH
    shapes = (rows, 3 * inner), (rows, inner), (inner,), (HEADS,), (slots, HEADS, WIDTH, WIDTH)
    qkv, gate, norm, slopes, pool = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return qkv, gate, norm, slopes.abs(), pool


def test_each_number_is_that_of_the_formula() -> None:
    qkv, gate, norm, slopes, pool = drawn(1, 1)
    before = pool.clone()
    out = recurrent(qkv, gate, norm, EPS, slopes, Slots(pool, torch.tensor([0], dtype=torch.int32)))
    x = [float(n) / (1 + math.exp(-float(n))) for n in qkv[0]]
    mixed = []
    for head in range(HEADS):
        q, k, v = (x[(3 * head + part) * WIDTH :][:WIDTH] for part in range(3))
        for i in range(WIDTH):
            for j in range(WIDTH):
                state = math.exp(-float(slopes[head])) * float(before[0, head, i, j]) + k[i] * v[j]
                assert math.isclose(float(pool[0, head, i, j]), state, rel_tol=1e-12)
        mixed += [sum(q[i] * float(pool[0, head, i, j]) for i in range(WIDTH)) for j in range(WIDTH)]
    root = math.sqrt(sum(n * n for n in mixed) / len(mixed) + EPS)
    for i, n in enumerate(mixed):
        opened = 1 / (1 + math.exp(-float(gate[0, i])))
        assert math.isclose(float(out[0, i]), n / root * float(norm[i]) * opened, rel_tol=1e-12)


def test_rows_find_their_slots_and_nobody_has_none() -> None:
    qkv, gate, norm, slopes, pool = drawn(4, 6)
    before, index = pool.clone(), torch.tensor([4, -1, 0, 5], dtype=torch.int32)
    out = recurrent(qkv, gate, norm, EPS, slopes, Slots(pool, index))
    assert not out[1].any() and torch.equal(pool[[1, 2, 3]], before[[1, 2, 3]])
    for row in (0, 2, 3):
        alone, one = before.clone(), slice(row, row + 1)
        expected = recurrent(qkv[one], gate[one], norm, EPS, slopes, Slots(alone, index[one]))
        assert torch.equal(out[one], expected) and torch.equal(pool[index[row]], alone[index[row]])
        assert not torch.equal(pool[index[row]], before[index[row]])


def test_a_batch_of_nobody_changes_nothing() -> None:
    qkv, gate, norm, slopes, pool = drawn(2, 3)
    before = pool.clone()
    out = recurrent(qkv, gate, norm, EPS, slopes, Slots(pool, torch.tensor([-1, -1], dtype=torch.int32)))
    assert not out.any() and out.shape == gate.shape and torch.equal(pool, before)
