"""A whole layer's step against the reference in float64: slots and pages in place, rows that are nobody's too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.layer import reference
from minimax_m1.kernels.layer.parts import Experts, LightningMixer, Parts, Pooled, SoftmaxMixer, Step
from minimax_m1.kernels.layer.triton import layer
from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.quantized import Int8
from minimax_m1.kernels.rope.reference import rope_tables
from minimax_m1.kernels.slots import Slots

WIDTH, HEADS, GROUPS, ONE, INNER, PAGE = 48, 4, 2, 16, 32, 16
FORMS = ["float32", "bfloat16", "int8", "int8 in bfloat16"]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def made(kind: str, form: str, device: torch.device, *, postnorm: bool = True) -> tuple[Tensor, Parts, Slots | Pooled]:
    """Five rows, of which the third is nobody's, with pasts that lie in any order among others'."""
    dtype = torch.float32 if form in ("float32", "int8") else torch.bfloat16

    def weight(*shape: int) -> Any:
        drawn = torch.randn(*shape, device=device) / shape[-1] ** 0.5
        return Int8.of(drawn) if "int8" in form else drawn.to(dtype)

    def norm(size: int) -> Tensor:
        return (1 + 0.1 * torch.randn(size, device=device)).to(dtype)

    router = torch.randn(6, WIDTH, device=device)
    experts = Experts(router, weight(6, 2 * INNER, WIDTH), weight(6, WIDTH, INNER), 3)
    mixer: LightningMixer | SoftmaxMixer
    past: Slots | Pooled
    if kind == "lightning":
        maps = weight(3 * HEADS * ONE, WIDTH), weight(HEADS * ONE, WIDTH)
        slopes = torch.rand(HEADS, device=device)
        mixer = LightningMixer(*maps, norm(HEADS * ONE), 1e-6, weight(WIDTH, HEADS * ONE), slopes)
        index = torch.tensor([6, 1, -1, 0, 3], dtype=torch.int32, device=device)
        past = Slots(torch.randn(8, HEADS, ONE, ONE, device=device), index)
    else:
        rows = HEADS * ONE, GROUPS * ONE, GROUPS * ONE
        mixer = SoftmaxMixer(*(weight(row, WIDTH) for row in rows), weight(WIDTH, HEADS * ONE))
        lengths = torch.tensor([70, 1, 0, 16, 33])  # the new token among them
        pages = torch.randperm(40)[: 5 * 6].view(5, 6)
        last = (lengths - 1).clamp(min=0)
        places = pages.gather(1, (last // PAGE)[:, None])[:, 0] * PAGE + last % PAGE
        places[2] = -1
        pools = torch.randn(2, 40, PAGE, GROUPS, ONE, device=device).to(dtype)
        table = BlockTable(pages.int().to(device), lengths.int().to(device))
        turns = rope_tables(last.to(device), 8, 10_000.0, torch.float32)
        past = Pooled(*pools, table, places.to(device), *turns)
    parts = Parts(norm(WIDTH), norm(WIDTH), 1e-5, mixer, experts, postnorm, (1.25, 0.75), (0.5, 1.0))
    return torch.randn(5, WIDTH, device=device).to(dtype), parts, past


def exact(x: Tensor, parts: Parts, past: Slots | Pooled, threshold: Any) -> tuple[Step, list[Tensor]]:
    """The reference in float64 on copies; with what the pools hold afterwards."""
    parts = replace(parts, experts=replace(parts.experts, router=parts.experts.router.double()))
    wide: Slots | Pooled
    if isinstance(past, Slots):
        wide = replace(past, pool=past.pool.double())
        return reference.layer(x.double(), parts, wide, threshold), [wide.pool]
    wide = Pooled(
        past.keys.double(), past.values.double(), past.table, past.places, past.cos.double(), past.sin.double()
    )
    return reference.layer(x.double(), parts, wide, threshold), [wide.keys, wide.values]


@pytest.mark.parametrize("kind", ["lightning", "softmax"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("postnorm", [True, False])
def test_a_layer_equals_the_reference(kind: str, form: str, postnorm: bool, device: torch.device) -> None:
    limits = torch.tensor([1.0, 0.6, 1.0, 0.3, 0.8], device=device)
    for threshold in (1.0, limits):
        x, parts, past = made(kind, form, device, postnorm=postnorm)
        told, pools = exact(x, parts, past, threshold)
        step = layer(x, parts, past, threshold)
        real = torch.tensor([0, 1, 3, 4], device=device)
        bound = 1e-5 if x.dtype is torch.float32 else 2e-2
        assert step.states is None and step.x.dtype is x.dtype
        assert torch.equal(step.experts[real], told.experts[real])
        for mine, theirs in ((step.logits, told.logits), (step.weights, told.weights), (step.x, told.x)):
            assert (mine[real] - theirs[real]).norm() < bound * theirs[real].norm()
        held = [past.pool] if isinstance(past, Slots) else [past.keys, past.values]
        for mine, theirs in zip(held, pools, strict=True):
            assert (mine - theirs).norm() < bound * theirs.norm()


def test_states_that_are_values_stay_as_they_are(device: torch.device) -> None:
    x, parts, past = made("lightning", "float32", device)
    assert isinstance(past, Slots)
    states = past.pool[:5].clone()
    told, _ = exact(x, parts, Slots(states.clone(), torch.arange(5, dtype=torch.int32, device=device)), 1.0)
    step = layer(x, parts, states, 1.0)
    assert torch.equal(states, past.pool[:5]) and step.states is not None
    assert (step.x - told.x).norm() < 1e-5 * told.x.norm()
