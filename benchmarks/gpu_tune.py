"""Other ways to cut the work than those that the kernels choose by themselves, timed side by side.

In: a `Bench`. Out: a row for each way, the one that is chosen by itself first. `bench_gpu.py --only tune` runs it, no
other call does. What all of them would compile is compiled beforehand, in as many processes as there are cores. A way
that takes more of the card than there is says so and costs nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_clock import LOW, Bench
from gpu_experts import drawn

from minimax_m1.kernels.pages import BlockTable
from minimax_m1.kernels.segments import Segments
from minimax_m1.kernels.slots import Slots
from minimax_m1.model.lightning import slopes as decay_slopes

PROCESSES = 14


@dataclass(frozen=True, slots=True)
class Way:
    """A call, what it is called, and its floor; whether a graph may hold it."""

    case: str
    call: Callable[[], object]
    moved: float = 0.0
    flops: float = 0.0
    small: bool = False


def tune(bench: Bench) -> None:
    """The section."""
    if not bench.toy:
        warm()
    for sweep in SWEEPS:
        with bench.part(sweep.__name__):
            for way in sweep(bench):
                with bench.part(way.case):
                    ms = bench.replay([way.call] * 5) if way.small else bench.time(way.call, least=50)
                    bench.tell(way.case, ms, moved=way.moved, flops=way.flops)


def lightning(bench: Bench) -> Iterator[Way]:
    """The scan, forward and backward."""
    from minimax_m1.kernels.lightning.triton import Tiles
    from minimax_m1.kernels.lightning.triton import lightning as op

    length, heads, width = bench.pick((2**15, 64, 128), (40, 2, 16))
    segments = Segments.of([length])
    tokens = [bench.random(length, heads, width).requires_grad_() for _ in range(3)]
    pull = bench.random(length, heads, width)
    state = torch.zeros(1, heads, width, width, device=bench.device)
    decay = decay_slopes(heads, 40, 80).to(bench.device)
    sizes = [
        (64, 64, 4, 3),
        (64, 64, 4, 2),
        (64, 64, 8, 3),
        (64, 64, 4, 4),
        (64, 64, 4, 5),
        (64, 32, 4, 3),
        (64, 32, 8, 3),
        (32, 32, 4, 4),  # two programs on each multiprocessor
        (32, 32, 4, 3),
    ]
    sizes += [(32, 64, 4, 3), (32, 64, 4, 4), (32, 128, 8, 3), (64, 128, 8, 2), (128, 64, 8, 2), (128, 32, 8, 3)]
    ways = [Tiles(block=b, columns=c, warps=w, stages=s) for b, c, w, s in bench.pick(sizes, [(32, 16, 4, 2)])]
    for back in (False, True):

        def run(tiles: Any, back: bool = back) -> None:
            with torch.set_grad_enabled(back):
                out = op(*tokens, decay, segments, state, tiles=tiles)[0]
            if back:
                torch.autograd.grad(out, tokens, pull)

        for tiles in (None, *ways):
            moved = (11 if back else 4) * tokens[0].nbytes
            yield Way(f"lightning {'both' if back else 'forward'}, {told(tiles)}", partial(run, tiles), moved)


def recurrent(bench: Bench) -> Iterator[Way]:
    """The decode step of 64 sequences and of one."""
    from minimax_m1.kernels.recurrent.triton import Tiles
    from minimax_m1.kernels.recurrent.triton import recurrent as op

    heads, width = bench.pick((64, 128), (2, 16))
    sizes = bench.pick([*product((16, 32, 64, 128), (2, 4, 8, 16))], [(16, 2)])
    for rows in bench.pick((64, 1), (2,)):
        pool = bench.random(max(rows, bench.pick(64, 2)), heads, width, width, dtype=torch.float32)
        given = bench.random(rows, 3 * heads * width), bench.random(rows, heads * width), bench.random(heads * width)
        decay = decay_slopes(heads, 40, 80).to(bench.device)
        arrived = torch.zeros(rows, dtype=torch.int32, device=bench.device)
        slots = Slots(pool, torch.arange(rows, device=bench.device, dtype=torch.int32), arrived)
        for tiles in (None, *(Tiles(columns=columns, warps=warps) for columns, warps in sizes)):
            call = partial(op, *given, 1e-6, decay, slots, tiles=tiles)
            moved = 2 * 4 * rows * heads * width * width
            yield Way(f"recurrent {rows} slots, {told(tiles)}", call, moved, small=True)


def pages(bench: Bench) -> Iterator[Way]:
    """Attention over pages, of one long sequence and of 64."""
    from minimax_m1.kernels.attention.triton import Tiles
    from minimax_m1.kernels.attention.triton import paged_attention as op

    heads, groups, width, size = bench.pick((64, 8, 128, 256), (4, 2, 16, 16))
    total = bench.pick(2**20, 64)
    pool = bench.random(2, total // size, size, groups, width)
    sizes = [(tile, 1024, 4, 5, programs) for tile in (32, 64, 128) for programs in (132, 264, 396, 528)]
    sizes += [(64, 1024, 4, 3, 396), (64, 1024, 4, 4, 396), (64, 1024, 8, 5, 264), (64, 1024, 2, 5, 396)]
    sizes += [(64, stretch, 4, 5, 396) for stretch in (512, 2048, 4096)]
    for rows in bench.pick((1, 64), (2,)):
        table = torch.arange(total // size, device=bench.device, dtype=torch.int32).view(rows, -1)
        blocks = BlockTable(table, torch.full((rows,), total // rows, device=bench.device, dtype=torch.int32))
        q = bench.random(rows, heads, width)
        ways = (
            Tiles(tile=tile, stretch=stretch, warps=warps, stages=stages, programs=programs)
            for tile, stretch, warps, stages, programs in bench.pick(sizes, [(16, 32, 4, 2, 4)])
        )
        for tiles in (None, *ways):
            call = partial(op, q, pool[0], pool[1], blocks, tiles=tiles)
            yield Way(f"pages {rows} rows, {told(tiles)}", call, pool.nbytes, small=True)


def moe(bench: Bench) -> Iterator[Way]:
    """The two products of the experts, for many tokens and for few."""
    from minimax_m1.kernels.moe.triton import choose_cut
    from minimax_m1.kernels.moe.triton import moe as op
    from minimax_m1.kernels.moe.triton_products import Tiles

    experts, width, inner = bench.pick((32, 6144, 9216), (4, 64, 48))
    weights = drawn(bench, experts, width, inner, "bf16")
    many = [(128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 4), (64, 64, 8, 4), (128, 32, 8, 4), (256, 64, 8, 3)]
    few = [(16, 256, 4, 4), (32, 128, 4, 4), (32, 256, 4, 3), (64, 128, 4, 4), (32, 64, 2, 6), (64, 64, 4, 6)]
    for tokens in bench.pick((8192, 64, 16), (6,)):
        x = bench.random(tokens, width)
        every = torch.arange(2 * tokens, device=bench.device).view(tokens, 2) % experts
        shares = torch.full((tokens, 2), 0.5, device=bench.device)
        chosen = choose_cut(2 * tokens, experts, width, LOW, LOW)
        tiles = [
            Tiles(outs=outs, depth=depth, warps=warps, stages=stages)
            for outs, depth, warps, stages in bench.pick(many if tokens > 1000 else few, [(32, 64, 4, 3)])
        ]
        tiles += [replace(chosen.down, group=group) for group in bench.pick((4, 8, 32), ()) if tokens > 1000]
        cuts = [None, *(replace(chosen, up=each) for each in tiles), *(replace(chosen, down=each) for each in tiles)]
        met = min(experts, 2 * tokens) / experts
        for cut in cuts:
            names = "" if cut is None else f"rows {cut.rows}, up {told(cut.up)}, down {told(cut.down)}"
            call = partial(op, x, every, shares, *weights, cut=cut)
            flops = 2 * 2 * tokens * 3 * width * inner
            moved = met * sum(weight.nbytes for weight in weights)
            yield Way(f"moe {tokens} tokens, {names or 'as chosen'}", call, moved, flops, small=tokens < 1000)


def linear(bench: Bench) -> Iterator[Way]:
    """int8 projections of a decode step, in and out of a layer, and the head."""
    from minimax_m1.kernels.linear.triton import Tiles
    from minimax_m1.kernels.linear.triton import linear as op
    from minimax_m1.kernels.quantized import Int8

    width, inner, tokens = bench.pick((6144, 8192, 200_064), (32, 48, 64))
    few = [(32, 128, 4, 4), (16, 128, 4, 4), (64, 128, 4, 4), (32, 256, 4, 3), (32, 64, 4, 6), (128, 64, 8, 3)]
    for rows in bench.pick((1, 16, 64), (2,)):
        for name, count, depth, kind in (
            ("qkv", 3 * inner, width, torch.int8),
            ("out", width, inner, torch.int8),
            ("head", tokens, width, LOW),
        ):
            drawn_weight = bench.random(count, depth)
            weight = Int8.of(drawn_weight) if kind is torch.int8 else drawn_weight
            x = bench.random(rows, depth) if kind is torch.int8 else bench.random(rows, depth, dtype=torch.float32)
            tall = max(16, 1 << (rows - 1).bit_length())
            ways = [Tiles(tall=tall, wide=w, deep=d, warps=n, stages=s) for w, d, n, s in bench.pick(few, few[:1])]
            for tiles in (None, *ways):
                call = torch.no_grad()(partial(op, x, weight, tiles=tiles))
                yield Way(f"linear {name} {rows} rows, {told(tiles)}", call, count * depth * kind.itemsize, small=True)


def told(tiles: Any) -> str:
    """Sizes in few words."""
    return "as chosen" if tiles is None else " ".join(f"{name} {value}" for name, value in asdict(tiles).items())


SWEEPS = (lightning, recurrent, pages, moe, linear)


def warm() -> None:
    """Compiles every way into Triton's cache."""
    command = [sys.executable, __file__]
    started = [subprocess.Popen([*command, str(number)], env=os.environ) for number in range(PROCESSES)]
    for process in started:
        process.wait()


def compile_share(number: int) -> None:
    """What one process does: all ways run on tensors without data, their launches are caught, a share is compiled."""
    from gpu_resources import compiled, recorded

    with tempfile.NamedTemporaryFile() as file, recorded() as launches:
        bench = Bench("tune", torch.device("meta"), False, Path(file.name), 1.0, 1.0)
        for sweep in SWEEPS:
            for way in sweep(bench):
                way.call()
    for launch in launches[number::PROCESSES]:
        try:
            compiled(launch)
        except Exception as error:  # a way that does not compile says so when it is timed
            print(f"{launch.kernel.__name__}: {type(error).__name__}", file=sys.stderr)


if __name__ == "__main__":
    compile_share(int(sys.argv[1]))
