"""Compiled bodies on torch's threads: every row has one thread, and a machine without a place for a cache compiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

from minimax_m1.kernels import threads
from minimax_m1.kernels.threads import Kernel, as_number, barrier, floats, integers, numbers, real, share


@pytest.fixture(params=[1, 2, 3])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _add_twice(data: Any) -> None:
    given = numbers(data, 2)
    at, rows = given
    out = integers(at, rows)
    for _ in range(2):
        first, stop = share(rows)
        for row in range(first, stop):
            out[row] += stop - first
        barrier(given)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("work", [1, 2**30])
def test_every_row_has_one_thread(count: int, rows: int, work: int) -> None:
    out = torch.zeros(rows, dtype=torch.int64)
    Kernel(_add_twice, 2)(work, out.data_ptr(), rows)
    parts = count if work > 1 else 1
    edges = [rows * thread // parts for thread in range(parts + 1)]
    sizes = [stop - first for first, stop in pairwise(edges)]
    assert out.tolist() == [2 * size for size in sizes for _ in range(size)]


def _write(data: Any) -> None:
    at, value = numbers(data, 2)
    floats(at, 1)[0] = real(value)


def test_without_a_place_for_the_cache_it_compiles_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nowhere(*args: Any, **options: Any) -> Any:
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function '_write': no locator available for file 'x.py'")
        return cfunc(*args, **options)

    cfunc = threads.cfunc
    monkeypatch.setattr(threads, "cfunc", nowhere)
    out = torch.zeros(1)
    Kernel(_write, 2)(0, out.data_ptr(), as_number(-1.5))
    assert out.item() == -1.5 and asked == [True, False]
