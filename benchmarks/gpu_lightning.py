"""Lightning attention on a GPU: prefill forward and backward, packed documents, and the fused decode step.

In: a `Bench`. Out: its rows: one sequence of 8K to 1M tokens at the published shape beside the torch path and SDPA's
flash attention at the same lengths; documents; block sizes; nano's shape; decode steps of 1 to 256 slots. fla-core
runs the same cases in gpu_fla.py, and what it took is set beside these rows afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from gpu_clock import BOUND, COLD, LOW, Absent, Bench
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from minimax_m1.kernels.lightning.torch import lightning as by_torch
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots
from minimax_m1.model.lightning import slopes as decay_slopes

SDPA_LONGEST, TORCH_LONGEST = 2**17, 2**16
ASKED, FAR = 256, 8192  # tokens at an end that are compared, and those after which nothing of older ones is left
STATE_BOUND = 1e-2  # of final states: what goes into them is rounded once to the tokens' dtype

Tokens = tuple[Tensor, Tensor, Tensor]


def lightning(bench: Bench) -> None:
    """The section."""
    heads, width = bench.pick(64, 2), bench.pick(128, 16)
    decay = decay_slopes(heads, 40, 80).to(bench.device)
    with bench.part("right"):
        errors = right(bench, heads, width, decay)
        for length in bench.pick((2**13, 2**15, 2**17, 2**19, 2**20), (50,)):
            with bench.part(f"forward {length}"):
                forward(bench, length, heads, width, decay, errors[0])
        for length in bench.pick((2**13, 2**15, 2**17, 2**19), (50,)):
            with bench.part(f"forward and backward {length}"):
                both(bench, length, heads, width, decay, errors[1])
        with bench.part("documents"):
            documents(bench, heads, width, decay, errors)
        with bench.part("blocks"):
            blocks(bench, heads, width, decay)
    few, narrow = bench.pick(8, 2), bench.pick(32, 16)
    decay = decay_slopes(few, 4, 8).to(bench.device)
    with bench.part("nano"):
        errors = right(bench, few, narrow, decay)
        for length in bench.pick((2**13, 2**16, 2**20), (70,)):
            forward(bench, length, few, narrow, decay, errors[0], name="nano ")
            both(bench, length, few, narrow, decay, errors[1], name="nano ")


def right(bench: Bench, heads: int, width: int, decay: Tensor) -> tuple[float, float]:
    """Errors of outputs and of gradients against float64, several documents of odd lengths and states; or Wrong."""
    from minimax_m1.kernels.lightning.triton import lightning as ours

    lengths = bench.pick([1, 700, 0, 2048, 129, 1, 1300], [1, 20, 0, 37])
    segments = Segments.of(lengths)
    shape = len(lengths), heads, width, width
    tokens = [bench.random(segments.total, heads, width).requires_grad_() for _ in range(3)]
    states = bench.random(*shape, dtype=torch.float32).requires_grad_()
    pulls = bench.random(segments.total, heads, width), bench.random(*shape, dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in (*tokens, states)]
    truth = by_torch(*exact[:3], decay.double(), segments, exact[3])
    wanted = torch.autograd.grad(truth, exact, [x.double() for x in pulls])
    found = ours(*tokens, decay, segments, states)
    grads = torch.autograd.grad(found, [*tokens, states], pulls)
    name = f"{heads} heads of {width}, {len(lengths)} documents"
    there = bench.check(f"{name}, output", {"o": found[0]}, {"o": truth[0]}, BOUND)
    bench.check(f"{name}, states", {"states": found[1]}, {"states": truth[1]}, STATE_BOUND)
    names = ("dq", "dk", "dv", "dstates")
    back = bench.check(
        f"{name}, gradients", dict(zip(names, grads, strict=True)), dict(zip(names, wanted, strict=True)), BOUND
    )
    return there, back


def sequence(bench: Bench, length: int, heads: int, width: int) -> tuple[Tokens, Tensor]:
    """q, k, v [T, H, D] and a state [1, H, D, D]."""
    q, k, v = (bench.random(length, heads, width) for _ in range(3))
    return (q, k, v), torch.zeros(1, heads, width, width, device=bench.device)


def forward(bench: Bench, length: int, heads: int, width: int, decay: Tensor, error: float, *, name: str = "") -> None:
    """One sequence; the floor is q, k, v read and o written once."""
    from minimax_m1.kernels.lightning.triton import lightning as ours

    tokens, state = sequence(bench, length, heads, width)
    segments = Segments.of([length])
    with torch.inference_mode():
        if length >= FAR:
            got = ours(*tokens, decay, segments, state)[0][-ASKED:].clone()
            want = by_torch(*(x[-FAR:].double() for x in tokens), decay.double(), Segments.of([FAR]), state.double())[0]
            error = bench.check(f"the end of {length:,} tokens", {"o": got}, {"o": want[-ASKED:]}, BOUND)
            del got, want
            bench.release()
        ms = bench.time(lambda: ours(*tokens, decay, segments, state))
        peers: dict[str, float | str] = {}
        if length <= TORCH_LONGEST:
            peers["torch"] = bench.peer(lambda: lambda: by_torch(*tokens, decay, segments, state), least=20)
        if length <= SDPA_LONGEST and not name:
            peers["flash"] = bench.peer(lambda: partial(flash, tokens), least=20)
    bench.tell(
        f"{name}forward {length:,}",
        ms,
        moved=4 * tokens[0].nbytes + 2 * state.nbytes,
        error=error,
        peers=peers,
        aims={} if name else {"floor": 0.6, "fla": 1.5},
        tokens=length,
        tokens_per_second=1e3 * length / ms,
    )


def both(bench: Bench, length: int, heads: int, width: int, decay: Tensor, error: float, *, name: str = "") -> None:
    """Forward and backward; the floor is those of both, 4 + 7 passes over a tensor of tokens."""
    from minimax_m1.kernels.lightning.triton import lightning as ours

    tokens, state = sequence(bench, length, heads, width)
    segments, pull = Segments.of([length]), bench.random(length, heads, width)
    for x in tokens:
        x.requires_grad_()

    def run(op: Callable[[], Tensor]) -> None:
        torch.autograd.grad(op(), tokens, pull)

    if length >= FAR:
        error = far_gradients(bench, tokens, pull, decay)
    ms = bench.time(lambda: run(lambda: ours(*tokens, decay, segments, state)[0]))
    peers: dict[str, float | str] = {}
    if length <= TORCH_LONGEST // 2:
        peers["torch"] = bench.peer(lambda: lambda: run(lambda: by_torch(*tokens, decay, segments, state)[0]), least=20)
    bench.tell(
        f"{name}forward and backward {length:,}",
        ms,
        moved=11 * tokens[0].nbytes,
        error=error,
        peers=peers,
        aims={} if name else {"fla": 1.2},
        tokens=length,
        tokens_per_second=1e3 * length / ms,
    )


def far_gradients(bench: Bench, tokens: Tokens, pull: Tensor, decay: Tensor) -> float:
    """The error of the last tokens' gradients, which lie behind the two thousand millionth number."""
    from minimax_m1.kernels.lightning.triton import lightning as ours

    length, heads, width = tokens[0].shape
    state = torch.zeros(1, heads, width, width, device=bench.device)
    found = torch.autograd.grad(ours(*tokens, decay, Segments.of([length]), state)[0], tokens, pull)
    got = [x[-ASKED:].clone() for x in found]
    del found
    exact = [x.detach()[-FAR:].double().requires_grad_() for x in tokens]
    truth = by_torch(*exact, decay.double(), Segments.of([FAR]), state.double())[0]
    want = [x[-ASKED:] for x in torch.autograd.grad(truth, exact, pull[-FAR:].double())]
    sides = [dict(zip(("dq", "dk", "dv"), side, strict=True)) for side in (got, want)]
    return bench.check(f"gradients at the end of {length:,} tokens", *sides, BOUND)


def documents(bench: Bench, heads: int, width: int, decay: Tensor, errors: tuple[float, float]) -> None:
    """As many tokens as one sequence of 32K, in documents."""
    from minimax_m1.kernels.lightning.triton import lightning as ours

    for name, lengths in packed(bench).items():
        segments = Segments.of(lengths)
        tokens, _ = sequence(bench, segments.total, heads, width)
        states = torch.zeros(len(lengths), heads, width, width, device=bench.device)
        with torch.inference_mode():
            ms = bench.time(partial(ours, *tokens, decay, segments, states))
        moved = 4 * tokens[0].nbytes + 2 * states.nbytes
        bench.tell(f"documents {name}", ms, moved=moved, error=errors[0], aims={"fla": 1.5})


def packed(bench: Bench) -> dict[str, list[int]]:
    """Lengths of documents: very different ones, all of 512, and many of one token beside a long one."""
    total = bench.pick(2**15, 64)
    ladder = [n for n in (1, 3, 17, 130, 515, 2049, 4095, 9000) for _ in range(2)]
    return {
        "mixed": bench.pick([*ladder, total - sum(ladder)], [1, 9, 0, 54]),
        "of 512": bench.pick([512] * 64, [16] * 4),
        "1,024 of one token, one of 31K": bench.pick([1] * 1024 + [total - 1024], [1] * 3 + [total - 3]),
    }


def blocks(bench: Bench, heads: int, width: int, decay: Tensor) -> None:
    """The forward at each block size; the one that is chosen by itself is among the rows above."""
    from minimax_m1.kernels.lightning.triton import choose_tiles
    from minimax_m1.kernels.lightning.triton import lightning as ours

    length = bench.pick(2**15, 50)
    tokens, state = sequence(bench, length, heads, width)
    segments = Segments.of([length])
    for size in bench.pick((32, 64, 128), (16, 32)):
        with bench.part(f"block {size}"), torch.inference_mode():
            tiles = replace(choose_tiles(segments, width, LOW), block=size)
            ms = bench.time(partial(ours, *tokens, decay, segments, state, tiles=tiles))
            bench.tell(f"forward {length:,} in blocks of {size}", ms, moved=4 * tokens[0].nbytes)


def flash(tokens: Tokens) -> Tensor:
    """SDPA's flash attention over the same tokens, causal: what a softmax layer with 64 key heads would do."""
    if not tokens[0].is_cuda:
        raise Absent("flash attention needs a GPU")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in tokens), is_causal=True)


def recurrent(bench: Bench) -> None:
    """The decode step: SiLU, decay, state, norm and gate in one launch; the floor is each state read and written."""
    heads, width = bench.pick(64, 2), bench.pick(128, 16)
    decay = decay_slopes(heads, 40, 80).to(bench.device)
    for slots in bench.pick((1, 8, 64, 256), (3,)):
        with bench.part(f"{slots} slots"):
            steps(bench, slots, heads, width, decay)
    with bench.part("nano"):
        few, narrow = bench.pick(8, 2), bench.pick(32, 16)
        steps(bench, bench.pick(256, 2), few, narrow, decay_slopes(few, 4, 8).to(bench.device), name="nano, ")


def steps(bench: Bench, slots: int, heads: int, width: int, decay: Tensor, name: str = "") -> None:
    """One row of the table, once the step is right."""
    from minimax_m1.kernels.recurrent.reference import recurrent as plain
    from minimax_m1.kernels.recurrent.triton import recurrent as ours

    inner, state_bytes = heads * width, 4 * heads * width * width
    sets = bench.pick(max(1, min(64, -(-int(COLD) // (slots * state_bytes)))), 1)
    pool = bench.random(slots * sets, heads, width, width, dtype=torch.float32)
    order = torch.randperm(slots * sets, device=bench.device).int().view(sets, slots)
    qkv, gate, norm = bench.random(slots, 3 * inner), bench.random(slots, inner), bench.random(inner)
    exact = pool.double()
    want = plain(qkv.double(), gate.double(), norm.double(), 1e-6, decay.double(), Slots(exact, order[0]))
    got = ours(qkv, gate, norm, 1e-6, decay, Slots(pool, order[0]))
    where = order[0].long()
    error = bench.check(f"{name}{slots} slots", {"o": got}, {"o": want}, BOUND)
    bench.check(f"{name}{slots} slots, states", {"s": pool[where]}, {"s": exact[where]}, STATE_BOUND)
    del exact
    with torch.inference_mode():
        arrived = torch.zeros(slots, dtype=torch.int32, device=bench.device)
        given = qkv, gate, norm, 1e-6, decay
        ms = bench.replay([partial(ours, *given, Slots(pool, row, arrived)) for row in order])
    moved = 2 * state_bytes * slots + qkv.nbytes + 2 * gate.nbytes
    bench.tell(
        f"{name}{slots} slots",
        ms,
        moved=moved,
        error=error,
        aims={"floor": 0.8} if slots == 64 and not name else {},
    )
