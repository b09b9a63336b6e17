"""A whole layer in one call against the references of its ops in float64, and against the compiled ops one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minimax_m1.kernels.layer import reference
from minimax_m1.kernels.layer.parts import Experts, LightningMixer, Parts, Pooled, Recent, SoftmaxMixer, Step
from minimax_m1.kernels.ops import Layer, Ops
from minimax_m1.kernels.pages import BlockTable, Paged, PageTable
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.rope.reference import rope_tables
from minimax_m1.kernels.slots import Slots

FORMATS = ["float32", "bfloat16", "int8", "int8 in bfloat16"]
PAGE = 5


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def compiled() -> Layer:
    layer = Ops.cpu().layer
    assert layer is not None
    return layer


def made(
    kind: str,
    form: str,
    tokens: int,
    *,
    width: int = 48,
    heads: int = 4,
    groups: int = 2,
    one: int = 16,
    rotary: int = 8,
    postnorm: bool = False,
    inner: int = 24,
) -> tuple[Tensor, Parts, Tensor | Recent]:
    """x, a layer and a past of a few hundred tokens at most, the sequences' pages mixed up in one pool."""
    dtype = torch.float32 if form in ("float32", "int8") else torch.bfloat16

    def weight(*shape: int) -> Any:
        drawn = torch.randn(*shape) / shape[-1] ** 0.5
        return Int8.of(drawn) if "int8" in form else drawn.to(dtype)

    def norm(size: int) -> Tensor:
        return (1 + 0.1 * torch.randn(size)).to(dtype)

    experts = Experts(torch.randn(6, width), weight(6, 2 * inner, width), weight(6, width, inner), 3)
    mixer: LightningMixer | SoftmaxMixer
    past: Tensor | Recent
    if kind == "lightning":
        maps = weight(3 * heads * one, width), weight(heads * one, width)
        out = weight(width, heads * one)
        mixer = LightningMixer(*maps, norm(heads * one), 1e-6, out, torch.rand(heads))
        past = torch.randn(tokens, heads, one, one)
    else:
        rows = heads * one, groups * one, groups * one
        q, k, v = (weight(row, width) for row in rows)
        mixer = SoftmaxMixer(q, k, v, weight(width, heads * one))
        lengths = [1 + 97 * (row + 3) % 290 for row in range(tokens)]  # the new token among them
        counts = [-(-length // PAGE) for length in lengths]
        pages = np.random.default_rng(0).permutation(sum(counts)).astype(np.int64)
        table = PageTable(tuple(np.split(pages, np.cumsum(counts)[:-1])), tuple(lengths), PAGE)
        pool = torch.randn(2, len(pages), PAGE, groups, one).to(dtype)
        ends = [int(p[-1]) * PAGE + (n - 1) % PAGE for p, n in zip(table.pages, lengths, strict=True)]
        turns = rope_tables(torch.tensor(lengths) - 1, rotary, 10_000.0, torch.float32)
        past = Recent(Paged(pool[0], table), Paged(pool[1], table), torch.tensor(ends), *turns)
    parts = Parts(norm(width), norm(width), 1e-5, mixer, experts, postnorm, (1.25, 0.75), (0.5, 1.0))
    return torch.randn(tokens, width).to(dtype), parts, past


def exact(x: Tensor, parts: Parts, past: Tensor | Recent, threshold: Any) -> tuple[Step, list[Tensor]]:
    """The reference in float64 on copies; with the pools afterwards."""
    parts = replace(parts, experts=replace(parts.experts, router=parts.experts.router.double()))
    pools: list[Tensor] = []
    if isinstance(past, Tensor):
        past = past.double()
    else:
        pools = [held.pool.double() for held in (past.keys, past.values)]
        keys, values = (Paged(pool, past.keys.table) for pool in pools)
        past = Recent(keys, values, past.places, past.cos.double(), past.sin.double())
    return reference.layer(x.double(), parts, past, threshold), pools


def near(mine: Tensor, told: Tensor, dtype: torch.dtype) -> None:
    close: Any = {"rtol": 1e-4, "atol": 3e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(mine.double(), told, **close)


def check(x: Tensor, parts: Parts, past: Tensor | Recent, threshold: Any) -> None:
    told, pools = exact(x, parts, past, threshold)
    kept = past.clone() if isinstance(past, Tensor) else None
    step = compiled()(x, parts, past, threshold)
    assert step is not None and step.x.dtype is x.dtype and step.x.shape == x.shape
    near(step.logits, told.logits, x.dtype)
    assert torch.equal(step.experts, told.experts)
    near(step.weights, told.weights, x.dtype)
    near(step.x, told.x, x.dtype)
    if isinstance(past, Tensor):
        assert step.states is not None and told.states is not None and kept is not None
        near(step.states, told.states, x.dtype)
        assert torch.equal(past, kept)  # a state is a value
    else:
        assert step.states is None
        for held, pool in zip((past.keys, past.values), pools, strict=True):
            near(held.pool, pool, x.dtype)


@pytest.mark.parametrize("kind", ["lightning", "softmax"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("postnorm", [False, True])
@pytest.mark.parametrize("tokens", [1, 3, 32])
def test_a_layer_equals_its_parts_in_float64(kind: str, form: str, postnorm: bool, tokens: int) -> None:
    for threshold in (1.0, 0.6, torch.linspace(0.2, 1.0, tokens)):
        check(*made(kind, form, tokens, postnorm=postnorm), threshold)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["lightning", "softmax"]), st.sampled_from(FORMATS), st.integers(1, 32))
def test_sizes_may_be_odd(data: st.DataObject, kind: str, form: str, tokens: int) -> None:
    draw = data.draw
    groups, one = draw(st.integers(1, 3)), draw(st.integers(1, 37))
    torch.manual_seed(0)
    sizes: Any = {
        "groups": groups,
        "heads": groups * draw(st.integers(1, 3)),
        "one": one,
        "rotary": 2 * draw(st.integers(0, one // 2)),
        "width": draw(st.integers(8, 67)),
        "inner": draw(st.integers(1, 33)),
    }
    x, parts, past = made(kind, form, tokens, **sizes)
    step = compiled()(x, parts, past, 1.0)
    assert step is not None
    torch.manual_seed(0)
    told, _ = exact(*made(kind, form, tokens, **sizes), 1.0)
    same = (step.experts == told.experts).all(-1)  # in bfloat16 two experts may be too near to tell apart
    assert same.float().mean() >= (1 if x.dtype is torch.float32 else 0.7)
    near(step.x[same], told.x[same], x.dtype)


@pytest.mark.parametrize("kind", ["lightning", "softmax"])
@pytest.mark.parametrize("form", FORMATS)
def test_threads_change_nothing(kind: str, form: str) -> None:
    before, steps = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            x, parts, past = made(kind, form, 7, width=512, inner=256)
            step = compiled()(x, parts, past, 0.7)
            assert step is not None
            kept = [past.keys.pool, past.values.pool] if isinstance(past, Recent) else [step.states]
            steps.append([step.x, step.experts, step.weights, step.logits, *kept])
    finally:
        torch.set_num_threads(before)
    for one, other in pairwise(steps):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["lightning", "softmax"])
@pytest.mark.parametrize("form", ["bfloat16", "int8 in bfloat16"])
def test_it_is_nearer_to_the_truth_than_ops_that_round_between_them(kind: str, form: str) -> None:
    x, parts, past = made(kind, form, 32, width=128, inner=64)
    told, _ = exact(x, parts, past, 1.0)
    step = compiled()(x, parts, past, 1.0)
    rounded = reference.layer(x, parts, past, 1.0)
    assert step is not None
    gaps = [float((each.x.double() - told.x).norm()) for each in (step, rounded)]
    assert gaps[0] < gaps[1]


def test_numbers_that_are_none_reach_the_output_of_their_own_sequence_alone() -> None:
    x, parts, past = made("lightning", "float32", 5)
    x[2] = float("nan")
    step = compiled()(x, parts, past, 0.6)
    assert step is not None
    broken = step.x.isnan().any(-1)
    assert broken.tolist() == [False, False, True, False, False]
    assert ((step.experts >= -1) & (step.experts < 6)).all()


def test_slots_and_pools_are_the_same_past_where_it_lies() -> None:
    x, parts, past = made("lightning", "float32", 3)
    assert isinstance(past, Tensor)
    told = reference.layer(x, parts, past, 0.6)
    pool = torch.randn(6, *past.shape[1:])
    kept, index = pool.clone(), torch.tensor([4, -1, 0, 2], dtype=torch.int32)
    pool[index[[0, 2, 3]]] = past
    step = reference.layer(x[[0, 0, 1, 2]], parts, Slots(pool, index), 0.6)
    torch.testing.assert_close(step.x[[0, 2, 3]], told.x)
    assert step.states is None and told.states is not None
    torch.testing.assert_close(pool[[4, 0, 2]], told.states)
    assert torch.equal(pool[[1, 3, 5]], kept[[1, 3, 5]])


def test_pools_with_tables_on_the_device_are_the_same_pages() -> None:
    x, parts, past = made("softmax", "float32", 3)
    assert isinstance(past, Recent)
    pools = [held.pool.clone() for held in (past.keys, past.values)]
    told = reference.layer(x, parts, past, 0.6)
    table, rows = past.keys.table, [0, 1, 1, 2]
    pages = torch.zeros(4, max(map(len, table.pages)), dtype=torch.int32)
    for row, n in enumerate(rows):
        pages[row, : len(table.pages[n])] = torch.from_numpy(table.pages[n])
    lengths, places = torch.tensor(table.lengths, dtype=torch.int32)[rows], past.places[rows]
    lengths[1], places[1] = 0, -1
    pooled = Pooled(*pools, BlockTable(pages, lengths), places, past.cos[rows], past.sin[rows])
    step = reference.layer(x[rows], parts, pooled, 0.6)
    torch.testing.assert_close(step.x[[0, 2, 3]], told.x)
    for held, pool in zip((past.keys, past.values), pools, strict=True):
        assert torch.equal(held.pool, pool)


def test_what_it_is_not_for_is_left_to_the_ops() -> None:
    x, parts, past = made("lightning", "float32", 2)
    assert isinstance(past, Tensor)
    layer = compiled()
    assert layer(x.double(), parts, past, 1.0) is None
    assert layer(x.bfloat16(), parts, past, 1.0) is None
    assert layer(x, parts, past.double(), 1.0) is None
    assert layer(x, parts, Slots(past, torch.arange(2)), 1.0) is None
    assert layer(x.repeat(40, 1), parts, past.repeat(40, 1, 1, 1), 1.0) is None
    with torch.enable_grad():
        assert layer(x, parts, past, 1.0) is None
    assert layer(x, parts, past, 1.0) is not None
