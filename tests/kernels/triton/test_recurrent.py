"""The fused decode step against the plain one: outputs, states written in place, slots left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.recurrent import reference
from minimax_m1.kernels.recurrent.triton import Tiles, choose_tiles, recurrent
from minimax_m1.kernels.slots import Slots
from minimax_m1.model.lightning import slopes

EPS = 1e-2  # large enough to be missed
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ORDERS = [[0], [3, 0, 2], [1, -1, 4, -1, 0], [-1]]


def drawn(
    rows: int, slots: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """qkv, gate, norm, slopes, pool."""
    inner = heads * width
    shapes = (rows, 3 * inner), (rows, inner), (inner,)
    qkv, gate, norm = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    pool = torch.randn(slots, heads, width, width, device=device)
    return qkv, gate, norm, slopes(heads, 1, 8).to(device), pool


def off(name: str, mine: Tensor, exact: Tensor) -> float:
    error = float((mine.double() - exact).norm() / exact.norm().clamp(min=1e-30))
    print(f"{name}: {error:.2e}")
    return error


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("shape", [(1, 16), (3, 32), (8, 32), (3, 48), (2, 128), (1, 80), (1, 256)])
def test_outputs_and_states_are_right(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    heads, width = shape
    for order in ORDERS:
        qkv, gate, norm, s, pool = drawn(len(order), 5, heads, width, dtype, device)
        index = torch.tensor(order, dtype=torch.int32, device=device)
        exact, before = pool.double(), pool.clone()
        wanted = reference.recurrent(*(x.double() for x in (qkv, gate, norm)), EPS, s.double(), Slots(exact, index))
        out = recurrent(qkv, gate, norm, EPS, s, Slots(pool, index))
        assert out.dtype == dtype and off(f"out {order}", out, wanted) < BOUNDS[dtype]
        named = [slot for slot in order if slot >= 0]
        others = [slot for slot in range(5) if slot not in named]
        assert torch.equal(pool[others], before[others])
        assert not out[index < 0].any()
        if named:
            assert off(f"states {order}", pool[named], exact[named]) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_rounds_where_the_plain_step_does(dtype: torch.dtype, device: torch.device) -> None:
    qkv, gate, norm, s, pool = drawn(4, 4, 2, 32, dtype, device)
    index = torch.arange(4, dtype=torch.int32, device=device)
    same = pool.clone()
    wanted = reference.recurrent(qkv, gate, norm, EPS, s, Slots(same, index))
    out = recurrent(qkv, gate, norm, EPS, s, Slots(pool, index))
    assert off("states", pool, same.double()) < 1e-6
    assert off("out", out, wanted.double()) < torch.finfo(dtype).eps / 4  # a few roundings that fall the other way


def test_a_slot_of_nan_harms_no_other_row(device: torch.device) -> None:
    qkv, gate, norm, s, pool = drawn(3, 4, 2, 16, torch.float32, device)
    index = torch.tensor([2, 0, 3], dtype=torch.int32, device=device)
    healthy = pool.clone()
    wanted = recurrent(qkv, gate, norm, EPS, s, Slots(healthy, index))
    pool[0] = torch.nan
    out = recurrent(qkv, gate, norm, EPS, s, Slots(pool, index))
    assert out[1].isnan().all() and pool[0].isnan().all()
    assert torch.equal(out[[0, 2]], wanted[[0, 2]]) and torch.equal(pool[1:], healthy[1:])


@pytest.mark.parametrize("tiles", [Tiles(columns=16, warps=1), Tiles(columns=64, warps=8)])
def test_counters_come_back_as_zeros_and_serve_again(tiles: Tiles, device: torch.device) -> None:
    qkv, gate, norm, s, pool = drawn(3, 3, 3, 48, torch.float32, device)
    index = torch.tensor([1, -1, 0], dtype=torch.int32, device=device)
    exact, arrived = pool.double(), torch.zeros(5, dtype=torch.int32, device=device)
    for step in range(3):
        wanted = reference.recurrent(*(x.double() for x in (qkv, gate, norm)), EPS, s.double(), Slots(exact, index))
        out = recurrent(qkv, gate, norm, EPS, s, Slots(pool, index, arrived), tiles=tiles)
        assert off(f"step {step}", out, wanted) < 1e-6 and not arrived.any()


def test_rows_may_lie_apart(device: torch.device) -> None:
    qkv, gate, norm, s, pool = drawn(3, 3, 2, 16, torch.float32, device)
    index = torch.tensor([2, 1, 0], dtype=torch.int32, device=device)
    same = pool.clone()
    wide = torch.cat((qkv, gate), 1)
    out = recurrent(wide[:, :96], wide[:, 96:], norm, EPS, s, Slots(pool, index))
    assert torch.equal(out, recurrent(qkv, gate, norm, EPS, s, Slots(same, index))) and torch.equal(pool, same)


def test_an_empty_batch_is_a_batch(device: torch.device) -> None:
    qkv, gate, norm, s, pool = drawn(0, 2, 2, 16, torch.float32, device)
    before = pool.clone()
    nobody = Slots(pool, torch.empty(0, dtype=torch.int32, device=device))
    assert recurrent(qkv, gate, norm, EPS, s, nobody).shape == (0, 32)
    assert torch.equal(pool, before)


def test_widths_and_dtypes_that_do_not_fit_are_refused(device: torch.device) -> None:
    index = torch.zeros(1, dtype=torch.int32, device=device)
    for width in (8, 24, 272):
        qkv, gate, norm, s, pool = drawn(1, 1, 1, width, torch.float32, device)
        with pytest.raises(ValueError, match=rf"\[1, 1, {width}, {width}\].*multiples of 16 up to 256"):
            recurrent(qkv, gate, norm, EPS, s, Slots(pool, index))
    qkv, gate, norm, s, pool = drawn(1, 1, 1, 16, torch.float32, device)
    with pytest.raises(ValueError, match=r"\[1, 48\].*float64"):
        recurrent(qkv.double(), gate.double(), norm.double(), EPS, s, Slots(pool, index))
    with pytest.raises(ValueError, match="bfloat16"):
        recurrent(qkv, gate.bfloat16(), norm, EPS, s, Slots(pool, index))


@pytest.mark.parametrize("heads", [1, 8, 64, 1000])
@pytest.mark.parametrize("width", [16, 32, 48, 128, 256])
def test_no_two_threads_hold_the_same_number_of_a_state_that_one_of_them_writes(heads: int, width: int) -> None:
    chosen = choose_tiles(heads, width)
    assert 32 * chosen.warps <= chosen.columns * (1 << (width - 1).bit_length())
