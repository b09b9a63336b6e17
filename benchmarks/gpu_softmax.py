"""Softmax layers' attention on a GPU: a step over pages against the memory's rate, prefill against the matrix rate.

In: a `Bench`. Out: its rows at the published shape: 64 heads, 8 of keys and values, pages of 256 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from gpu_clock import BOUND, Absent, Bench
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from minimax_m1.kernels.attention.reference import attention as plain
from minimax_m1.kernels.attention.torch import attention as masked
from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.segments import Segments


def attention(bench: Bench) -> None:
    """The section."""
    heads, groups, width = bench.pick((64, 8, 128), (4, 2, 16))
    for rows, tokens in bench.pick(((1, 2**20), (64, 2**14), (256, 2**11)), ((3, 50),)):
        with bench.part(f"pages {rows} x {tokens}"), torch.inference_mode():
            pages(bench, [tokens] * rows, heads, groups, width, f"{rows} x {tokens:,} tokens in pages")
    with bench.part("pages mixed"), torch.inference_mode():
        mixed = bench.pick([2**17, 1, 5000, 300, 16384, 2**15, 77, 8192], [40, 1, 17])
        pages(bench, mixed, heads, groups, width, f"{len(mixed)} sequences of 1 to {max(mixed):,} tokens in pages")
    for tokens in bench.pick((2**13, 2**15, 2**17), (40,)):
        with bench.part(f"prefill {tokens}"), torch.inference_mode():
            prefill(bench, tokens, heads, groups, width)
    with bench.part("float32"), torch.inference_mode():
        float32(bench, *bench.pick((2**11, 2**14), (9, 33)), heads, groups, width)
    with bench.part("backward"):
        backward(bench, bench.pick(2**13, 24), heads, groups, width)


def pages(bench: Bench, lengths: Sequence[int], heads: int, groups: int, width: int, name: str) -> None:
    """One query a sequence; the floor is its keys and values, read once."""
    from minimax_m1.kernels.attention.triton import paged_attention as ours

    size = bench.pick(256, 16)
    counts = [-(-length // size) for length in lengths]
    pool = bench.random(2, sum(counts), size, groups, width)
    order = torch.randperm(sum(counts), device=bench.device).int()
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32, device=bench.device)
    for row, mine in zip(table, order.split(counts), strict=True):
        row[: len(mine)] = mine
    held = torch.tensor(lengths, dtype=torch.int32, device=bench.device)
    blocks = BlockTable(table, held)
    q = bench.random(len(lengths), heads, width)
    got = ours(q, pool[0], pool[1], blocks)
    some = sorted(range(len(lengths)), key=lambda n: lengths[n])[-3:]  # the longest say most
    want = torch.stack([of_row(q[n], pool, table[n], lengths[n]) for n in some])
    error = bench.check(name, {"o": got[some]}, {"o": want}, BOUND)
    ms = bench.replay([partial(ours, q, pool[0], pool[1], blocks)] * 3)
    moved = 2 * sum(lengths) * groups * width * pool.element_size() + 2 * q.nbytes
    bench.tell(name, ms, moved=moved, error=error)


def of_row(q: Tensor, pool: Tensor, table: Tensor, length: int) -> Tensor:
    """One query [H, D] in float64, a head of keys at a time, since a million of them are large."""
    groups = pool.shape[3]
    used = table[: -(-length // pool.shape[2])].long()
    out = []
    for group, asked in enumerate(q.double().chunk(groups)):
        keys, values = (side[used, :, group].flatten(0, 1)[:length].double() for side in pool)
        out.append((asked @ keys.T / q.shape[-1] ** 0.5).softmax(-1) @ values)
    return torch.cat(out)


def prefill(bench: Bench, tokens: int, heads: int, groups: int, width: int) -> None:
    """One sequence from nothing; the floor is the arithmetic under the diagonal."""
    from minimax_m1.kernels.attention.triton import attention as ours

    segments = Segments.of([tokens])
    q, k, v = (bench.random(tokens, count, width) for count in (heads, groups, groups))
    rows = slice(tokens - min(64, tokens), tokens)  # the last ones see every key
    got = ours(q, [k], [v], segments)
    want = [
        plain(mine.double(), [key.double()], [value.double()], Segments.of([len(mine)]))
        for mine, key, value in zip(q[rows].split(heads // groups, 1), k.split(1, 1), v.split(1, 1), strict=True)
    ]
    error = bench.check(f"prefill {tokens}", {"o": got[rows]}, {"o": torch.cat(want, 1)}, BOUND)
    ms = bench.time(lambda: ours(q, [k], [v], segments), least=60)
    peers = {"SDPA flash": bench.peer(lambda: partial(flash, q, k, v), least=30)}
    bench.tell(f"prefill {tokens:,}", ms, flops=2 * tokens**2 * heads * width, error=error, peers=peers)


def float32(bench: Bench, new: int, past: int, heads: int, groups: int, width: int) -> None:
    """More tokens of one sequence behind cached ones in float32, which no library takes without masks."""
    from minimax_m1.kernels.attention.triton_prefill import paged_prefill as ours

    size, length, wide = bench.pick(256, 16), past + new, torch.float32
    pool = bench.random(2, -(-length // size), size, groups, width, dtype=wide)
    table = torch.randperm(pool.shape[1], device=bench.device).int()[None]
    held = torch.tensor([length], dtype=torch.int32, device=bench.device)
    q, segments = bench.random(new, heads, width, dtype=wide), Segments.of([new])
    call = partial(ours, q, *pool, BlockTable(table, held), segments)
    error = bench.check("float32", {"o": call()[-1:]}, {"o": of_row(q[-1], pool, table[0], length)[None]}, 1e-5)
    rows = [side[table[0].long()].flatten(0, 1)[:length] for side in pool]
    peers = {"torch, masks": bench.peer(lambda: partial(masked, q, *([each] for each in rows), segments), least=30)}
    flops = 4 * new * (past + new // 2) * heads * width
    bench.tell(f"{new:,} tokens behind {past:,} in float32", bench.time(call), flops=flops, error=error, peers=peers)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA's flash attention with grouped heads."""
    if not q.is_cuda:
        raise Absent("flash attention needs a GPU")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        sides = (x.transpose(0, 1)[None] for x in (q, k, v))
        return scaled_dot_product_attention(*sides, is_causal=True, enable_gqa=True)


def backward(bench: Bench, tokens: int, heads: int, groups: int, width: int) -> None:
    """Two documents, forward and backward, as in training: 3.5 times the forward's arithmetic."""
    from minimax_m1.kernels.attention.triton import attention as ours

    lengths = [tokens // 4, tokens - tokens // 4]
    segments = Segments.of(lengths)
    inputs = [bench.random(tokens, count, width).requires_grad_() for count in (heads, groups, groups)]
    pull = bench.random(tokens, heads, width)

    def step() -> tuple[Tensor, ...]:
        q, k, v = inputs
        return torch.autograd.grad(ours(q, k.split(lengths), v.split(lengths), segments), inputs, pull)

    short = Segments.of(few := bench.pick([300, 77], [9, 4]))
    small = [bench.random(short.total, count, width).requires_grad_() for count in (heads, groups, groups)]
    precise = [x.detach().double().requires_grad_() for x in small]
    aim = bench.random(short.total, heads, width)
    got = torch.autograd.grad(ours(small[0], small[1].split(few), small[2].split(few), short), small, aim)
    truth = plain(precise[0], precise[1].split(few), precise[2].split(few), short)
    want = torch.autograd.grad(truth, precise, aim.double())
    names = ("dq", "dk", "dv")
    error = bench.check("gradients", dict(zip(names, got, strict=True)), dict(zip(names, want, strict=True)), BOUND)
    flops = 3.5 * 2 * sum(n**2 for n in lengths) * heads * width
    bench.tell(f"two documents, {tokens:,} tokens, forward and backward", bench.time(step), flops=flops, error=error)
