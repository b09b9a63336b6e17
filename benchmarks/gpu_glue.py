"""What stands between the large ops on a GPU: norms, rotation, the choice of experts, and the float32 head.

In: a `Bench`. Out: its rows: norms at M1's width and over a million rows of nano's, 8,192 rows through the head of
200,064 tokens forward and backward with the memory that takes, rotation, routing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_clock import BOUND, Bench
from torch import Tensor

from minimax_m1.kernels.head import reference as head_plain
from minimax_m1.kernels.head import torch as head_torch
from minimax_m1.kernels.moe.route import route as by_torch
from minimax_m1.kernels.norm import reference as norm_plain
from minimax_m1.kernels.norm import torch as norm_torch
from minimax_m1.kernels.rope.reference import rope as turned
from minimax_m1.kernels.rope.reference import rope_tables

HEAD_BOUND = 1e-3  # of log-probs, which are float32 whatever the weights are
PASSES = {"rms_norm": (2, 3), "add_rms_norm": (4, 5), "gated_rms_norm": (3, 5)}  # over a tensor: forward, backward


def glue(bench: Bench) -> None:
    """The section."""
    for rows, width in bench.pick(((8192, 6144), (8192, 8192), (2**20, 128)), ((5, 48),)):
        for name in PASSES:
            with bench.part(f"{name} {width}"):
                norm(bench, name, rows, width)
    with bench.part("rope"):
        rope(bench)
    with bench.part("route"):
        choose(bench)


def norm(bench: Bench, name: str, rows: int, width: int) -> None:
    """One kind of norm, forward and then with its backward."""
    from minimax_m1.kernels.norm import triton as ours

    weight = bench.random(width).requires_grad_()
    tensors = [bench.random(rows, width).requires_grad_() for _ in range(1 if name == "rms_norm" else 2)]
    factors = (3.5, 1.0) if name == "add_rms_norm" else ()

    def run(op: Callable[..., Any], inputs: list[Tensor], by: Tensor) -> tuple[Tensor, ...]:
        out = op(*inputs, *factors, by, 1e-5)
        return out if isinstance(out, tuple) else (out,)

    some = slice(0, bench.pick(512, rows))
    few = [x.detach()[some].requires_grad_() for x in tensors]
    precise = [x.detach().double().requires_grad_() for x in (*few, weight)]
    got = run(getattr(ours, name), few, weight)
    want = run(getattr(norm_plain, name), precise[:-1], precise[-1])
    pulls = [bench.random(len(few[0]), width) for _ in got]
    grads = torch.autograd.grad(got, [*few, weight], pulls)
    wanted = torch.autograd.grad(want, precise, [pull.double() for pull in pulls])
    outputs = {f"out {n}": x for n, x in enumerate((*got, *grads))}
    truth = {f"out {n}": x for n, x in enumerate((*want, *wanted))}
    error = bench.check(f"{name} {width}", outputs, truth, BOUND)
    pulls = [bench.random(rows, width) for _ in got]
    times: dict[bool, list[float]] = {}
    for backward in (False, True):
        for module in (ours, norm_torch):
            op = getattr(module, name)

            def step(op: Callable[..., Any] = op, backward: bool = backward) -> None:
                out = run(op, tensors, weight)
                if backward:
                    torch.autograd.grad(out, [*tensors, weight], pulls)

            with torch.set_grad_enabled(backward):
                times.setdefault(backward, []).append(bench.time(step, least=30))
    forth, back = PASSES[name]
    for backward, passes in ((False, forth), (True, forth + back)):
        ms, theirs = times[backward]
        case = f"{name} {rows:,} x {width}" + (", forward and backward" if backward else "")
        bench.tell(case, ms, moved=passes * tensors[0].nbytes, error=error, peers={"torch": theirs})


def rope(bench: Bench) -> None:
    """Half of each head turned, one pass."""
    from minimax_m1.kernels.rope.triton import rope as ours

    tokens, heads, width = bench.pick((2**15, 64, 128), (7, 3, 16))
    x = bench.random(tokens, heads, width)
    cos, sin = rope_tables(torch.arange(tokens, device=bench.device), width // 2, 1e7, torch.float32)
    some = slice(0, bench.pick(2048, tokens))
    want = turned(x[some].double(), cos[some].double(), sin[some].double())
    with torch.inference_mode():
        got = ours(x, cos, sin)
        error = bench.check("rope", {"x": got[some]}, {"x": want}, BOUND)
        ms = bench.time(partial(ours, x, cos, sin), least=30)
        theirs = bench.time(partial(turned, x, cos, sin), least=30)
    bench.tell(f"rope {tokens:,} x {heads}", ms, moved=2 * x.nbytes, error=error, peers={"torch": theirs})


def choose(bench: Bench) -> None:
    """The two best of 32 experts, one launch."""
    from minimax_m1.kernels.moe.triton_route import route as ours

    for tokens in bench.pick((64, 8192), (6,)):
        logits = torch.randn(tokens, bench.pick(32, 5), device=bench.device)
        (experts, weights), (best, shares) = ours(logits, 2, 1.0), by_torch(logits.double(), 2, 1.0)
        got = {"experts": experts.double(), "weights": weights}
        error = bench.check(f"route {tokens}", got, {"experts": best.double(), "weights": shares}, 1e-5)
        ms = bench.replay([partial(ours, logits, 2, 1.0)] * 20)
        theirs = bench.replay([partial(by_torch, logits, 2, 1.0)] * 20)
        moved = logits.nbytes + tokens * 2 * 12
        bench.tell(f"route {tokens:,}", ms, moved=moved, error=error, peers={"torch": theirs})


def head(bench: Bench) -> None:
    """The section of the head, whose products alone take a second of torch's float32."""
    for name, rows, width, tokens in bench.pick(
        (("M1", 8192, 6144, 200_064), ("nano", 65_536, 128, 512)), (("M1", 9, 48, 130),)
    ):
        with bench.part(name):
            scored(bench, name, rows, width, tokens)


def scored(bench: Bench, name: str, rows: int, width: int, tokens: int) -> None:
    """Log-probs, and their gradients: one product forward, three more backward."""
    from minimax_m1.kernels.head.triton import logprobs as ours

    x = bench.random(rows, width).requires_grad_()
    weight = bench.random(tokens, width, scale=width**-0.5).requires_grad_()
    targets = torch.randint(0, tokens, (rows,), device=bench.device)
    pull = bench.random(rows, dtype=torch.float32)
    few, some = min(rows, 64), min(tokens, 20_000)
    small, part = x.detach()[:few].requires_grad_(), weight.detach()[:some].requires_grad_()
    precise = [t.detach().double().requires_grad_() for t in (small, part)]
    aims = targets[:few] % some
    got, want = ours(small, part, aims), head_plain.logprobs(precise[0], precise[1], aims)
    kept = dict(zip(("logprob", "entropy"), got[:2], strict=True))
    error = bench.check(name, kept, dict(zip(("logprob", "entropy"), want[:2], strict=True)), HEAD_BOUND)
    grads = torch.autograd.grad(got.logprob, [small, part], pull[:few])
    wanted = torch.autograd.grad(want.logprob, precise, pull[:few].double())
    both = [dict(zip(("dx", "dweight"), sides, strict=True)) for sides in (grads, wanted)]
    bench.check(f"{name}, gradients", *both, BOUND)
    flops = 2 * rows * width * tokens

    def forward(op: Callable[..., Any]) -> None:
        with torch.no_grad():
            op(x, weight, targets)

    def step(op: Callable[..., Any]) -> None:
        torch.autograd.grad(op(x, weight, targets).logprob, [x, weight], pull)

    for case, call, times in (("forward", forward, 1), ("forward and backward", step, 4)):
        with bench.peak() as peak:
            call(ours)
        ms = bench.time(partial(call, ours), least=50)
        theirs = bench.peer(lambda: partial(call, head_torch.logprobs), least=1)  # noqa: B023
        moved = times * (x.nbytes + weight.nbytes)
        bench.tell(
            f"{name}: {rows:,} rows x {tokens:,} tokens, {case}",
            ms,
            flops=times * flops,
            moved=moved,
            error=error,
            peers={"torch": theirs},
            peak_mb=peak[0] / 1e6,
        )
