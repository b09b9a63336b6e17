"""Mixture of experts on a GPU: prefill against the matrix rate, decode against the memory's, three kinds of weights.

In: a `Bench`. Out: its rows at the published layer: 32 experts of 9216 over 6144, two a token, in bf16, int8 and fp8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_clock import BOUND, Absent, Bench
from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.moe.reference import moe as plain
from minimax_m1.kernels.moe.route import route
from minimax_m1.kernels.moe.torch import moe as by_torch
from minimax_m1.kernels.quantized import Int8

FP8_BOUND = 6e-2  # activations and hidden numbers have three bits behind the comma
Weights = tuple[Any, Any]


def moe(bench: Bench) -> None:
    """The section."""
    experts, width, inner = bench.pick(32, 4), bench.pick(6144, 32), bench.pick(9216, 48)
    for kind in ("bf16", "int8", "fp8"):
        with bench.part(kind):
            weights = drawn(bench, experts, width, inner, kind)
            for tokens in bench.pick((8192, 2048), (20,)):
                products(bench, tokens, weights, kind)
            for tokens in bench.pick((1, 16, 64), (1, 3)):
                decode(bench, tokens, weights, kind)
            if kind == "bf16":
                with bench.part("backward"):
                    backward(bench, weights)
            del weights


def drawn(bench: Bench, experts: int, width: int, inner: int, kind: str) -> Weights:
    """w13 and w2, whose outputs are about as large as their inputs; no weight is rounded from a wider one."""
    shapes = (experts, 2 * inner, width), (experts, width, inner)
    if kind == "bf16":
        return tuple(bench.random(*shape, scale=shape[-1] ** -0.5) for shape in shapes)  # type: ignore[return-value]
    made: list[Any] = []
    for shape in shapes:
        scales = torch.rand(shape[:2], device=bench.device).add_(0.5).mul_(shape[-1] ** -0.5)
        if kind == "int8":
            values = torch.randint(-127, 128, shape, dtype=torch.int8, device=bench.device)
            made.append(Int8(values, scales / 73))  # 73 is their deviation
        else:
            from minimax_m1.kernels.fp8 import Fp8

            rows = [bench.random(*shape[1:], dtype=torch.bfloat16).to(torch.float8_e4m3fn) for _ in range(shape[0])]
            made.append(Fp8(torch.stack([row.view(torch.uint8) for row in rows]).view(torch.float8_e4m3fn), scales))
    return made[0], made[1]


def routed(bench: Bench, tokens: int, experts: int) -> tuple[Tensor, Tensor]:
    """Choices of a router that likes all experts alike."""
    return route(torch.randn(tokens, experts, device=bench.device), 2)


def nbytes(weight: Any) -> int:
    """Of a weight in any form."""
    return int(weight.nbytes) if isinstance(weight, Tensor) else int(weight.values.nbytes + weight.scales.nbytes)


def exact(x: Tensor, chosen: Tensor, shares: Tensor, weights: Weights) -> Tensor:
    """The reference in float64, one expert after the other, since all of them would not fit."""
    out = torch.zeros_like(x, dtype=torch.float64)
    for expert in range(len(weights[0])):
        mine = torch.where(chosen == expert, 0, -1)
        rows = (mine == 0).any(-1).nonzero()[:, 0]
        if len(rows):
            one = [wide(weight, expert) for weight in weights]
            out[rows] += plain(x[rows].double(), mine[rows], shares[rows].double(), *one)
    return out


def wide(weight: Any, expert: int) -> Tensor:
    """One expert in float64, [1, out, in]."""
    if isinstance(weight, Tensor):
        return weight[expert : expert + 1].double()
    return (weight.values[expert].double() * weight.scales[expert].double()[:, None])[None]


def bound(bench: Bench, kind: str) -> float:
    """Of a few numbers the error is now larger and now smaller."""
    return bench.pick(FP8_BOUND, 2 * FP8_BOUND) if kind == "fp8" else BOUND


def products(bench: Bench, tokens: int, weights: Weights, kind: str) -> None:
    """Many tokens: the floor is the arithmetic of two experts a token."""
    from minimax_m1.kernels.moe.triton import moe as ours

    _, double, width = weights[0].shape
    x = bench.random(tokens, width)
    chosen, shares = routed(bench, tokens, len(weights[0]))
    with torch.inference_mode():
        got = ours(x, chosen, shares, *weights)
        some = bench.pick(256, tokens)
        want = exact(x[:some], chosen[:some], shares[:some], weights)
        error = bench.check(f"{kind} {tokens}", {"y": got[:some]}, {"y": want}, bound(bench, kind))
        ms = bench.time(lambda: ours(x, chosen, shares, *weights), least=150)
        peers: dict[str, float | str] = {}
        if kind == "bf16":
            peers["torch, expert by expert"] = bench.peer(lambda: lambda: by_torch(x, chosen, shares, *weights))
            peers["torch grouped_mm"] = bench.peer(lambda: partial(grouped(bench), x, chosen, shares, *weights))
    bench.tell(f"{kind}, {tokens:,} tokens", ms, flops=2 * 2 * tokens * 1.5 * double * width, error=error, peers=peers)


def decode(bench: Bench, tokens: int, weights: Weights, kind: str) -> None:
    """A few tokens: the floor is the weights of the experts that are met, read once."""
    from minimax_m1.kernels.moe.triton import moe as ours

    width = weights[0].shape[-1]
    x = bench.random(tokens, width)
    routes = [routed(bench, tokens, len(weights[0])) for _ in range(bench.pick(4, 1))]
    with torch.inference_mode():
        got = ours(x, *routes[0], *weights)
        want = exact(x, *routes[0], weights)
        error = bench.check(f"{kind} {tokens}", {"y": got}, {"y": want}, bound(bench, kind))
        ms = bench.replay([partial(ours, x, *chosen, *weights) for chosen in routes])
    met = sum(len(chosen.unique()) for chosen, _ in routes) / len(routes)
    each = sum(map(nbytes, weights)) / len(weights[0])
    bench.tell(f"{kind}, {tokens} tokens", ms, moved=met * each + 4 * x.nbytes, error=error, experts_met=met)


def backward(bench: Bench, weights: Weights) -> None:
    """A step's products, forward and backward: three times the forward's arithmetic."""
    from minimax_m1.kernels.moe.triton import moe as ours

    few, narrow, thin = bench.pick((4, 512, 768), (4, 32, 48))
    small = [w.detach().requires_grad_() for w in drawn(bench, few, narrow, thin, "bf16")]
    rows = bench.pick(300, 12)
    x, (chosen, shares) = bench.random(rows, narrow).requires_grad_(), routed(bench, rows, few)
    shares.requires_grad_()
    pull = bench.random(rows, narrow)
    inputs = [x, shares, *small]
    precise = [t.detach().double().requires_grad_() for t in inputs]
    got = torch.autograd.grad(ours(x, chosen, shares, *small), inputs, pull)
    want = torch.autograd.grad(plain(precise[0], chosen, precise[1], *precise[2:]), precise, pull.double())
    names = ("dx", "dweights", "dw13", "dw2")
    error = bench.check(
        "gradients",
        dict(zip(names, got, strict=True)),
        dict(zip(names, want, strict=True)),
        BOUND * 1.5,
    )
    tokens = bench.pick(8192, 12)
    _, double, width = weights[0].shape
    x, (chosen, shares) = bench.random(tokens, width).requires_grad_(), routed(bench, tokens, len(weights[0]))
    trained = [w.requires_grad_() for w in weights]
    pull = bench.random(tokens, width)

    def step(op: Callable[..., Tensor]) -> None:
        torch.autograd.grad(op(x, chosen, shares, *trained), [x, *trained], pull)

    ms = bench.time(lambda: step(ours), least=150)
    theirs = bench.peer(lambda: lambda: step(by_torch))
    bench.tell(
        f"bf16, {tokens:,} tokens, forward and backward",
        ms,
        flops=3 * 2 * 2 * tokens * 1.5 * double * width,
        error=error,
        peers={"torch, expert by expert": theirs},
    )
    for weight in trained:
        weight.requires_grad_(False)


def grouped(bench: Bench) -> Callable[..., Tensor]:
    """The same layer by torch's own grouped product."""
    product = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if bench.toy or product is None:
        raise Absent("this torch has no grouped product here")

    def run(x: Tensor, chosen: Tensor, shares: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        ends = torch.bincount(flat, minlength=len(w13)).cumsum(0).to(torch.int32)
        rows = order // chosen.shape[1]
        gate, up = product(x[rows], w13.transpose(1, 2), offs=ends).chunk(2, -1)
        out = product(silu(gate) * up, w2.transpose(1, 2), offs=ends) * shares.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add_(0, rows, out)

    return run
