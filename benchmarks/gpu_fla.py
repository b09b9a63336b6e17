"""The peer of gpu_lightning.py: fla-core's `chunk_simple_gla` and `fused_recurrent_simple_gla` on the same cases.

In: a `Bench`, and fla-core on the path. Out: rows of the same names. fla tries a hundred and more configurations of its
kernels at the first call; `warm` compiles them beforehand in as many processes as there are cores, since one after
another they would take minutes of a lent card.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from gpu_clock import COLD, Absent, Bench, off
from gpu_lightning import packed, sequence
from torch import Tensor
from torch.nn.functional import silu

from minimax_m1.kernels.lightning.torch import lightning as by_torch
from minimax_m1.kernels.segments import Segments
from minimax_m1.model.lightning import slopes as decay_slopes

PROCESSES = 12


def fla(bench: Bench) -> None:
    """The section."""
    if bench.toy:
        raise Absent("fla-core needs a GPU")
    try:
        import fla as package
    except ImportError as error:
        raise Absent(f"fla-core is not on the path ({error})") from None
    bench.facts["fla-core"] = getattr(package, "__version__", "?")
    warm()
    decay = decay_slopes(64, 40, 80).to(bench.device)
    with bench.part("error"):
        bench.facts["error of the forward"] = error(bench, decay)
    for length in (2**13, 2**15, 2**17, 2**19, 2**20):
        with bench.part(f"forward {length}"), torch.inference_mode():
            tokens, state = sequence(bench, length, 64, 128)
            ms = bench.time(partial(run, tokens, decay, state))
            bench.tell(f"forward {length:,}", ms, moved=4 * tokens[0].nbytes)
    for slots in (1, 8, 64, 256):
        with bench.part(f"{slots} slots"), torch.inference_mode():
            steps(bench, slots, decay)
    for length in (2**13, 2**15, 2**17):
        with bench.part(f"forward and backward {length}"):
            tokens, state = sequence(bench, length, 64, 128)
            pull = bench.random(length, 64, 128)
            for x in tokens:
                x.requires_grad_()
            ms = bench.time(lambda: torch.autograd.grad(run(tokens, decay, state), tokens, pull))  # noqa: B023
            bench.tell(f"forward and backward {length:,}", ms, moved=11 * tokens[0].nbytes)
    for name, lengths in packed(bench).items():
        with bench.part(f"documents {name}"), torch.inference_mode():
            segments = Segments.of(lengths)
            tokens, _ = sequence(bench, segments.total, 64, 128)
            states = torch.zeros(len(lengths), 64, 128, 128, device=bench.device)
            edges = torch.tensor(segments.cu_seqlens, device=bench.device)
            ms = bench.time(partial(run, tokens, decay, states, edges))
            bench.tell(f"documents {name}", ms, moved=4 * tokens[0].nbytes + 2 * states.nbytes)


def run(tokens: Sequence[Tensor], decay: Tensor, state: Tensor, edges: Tensor | None = None) -> Tensor:
    """The function of kernels/lightning by fla's chunks, [T, H, D]."""
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = (x[None] for x in tokens)
    options: dict[str, Any] = {"scale": 1.0, "initial_state": state, "output_final_state": True}
    out: Tensor = chunk_simple_gla(q, k, v, g_gamma=-decay, cu_seqlens=edges, **options)[0]
    return out[0]


def error(bench: Bench, decay: Tensor) -> float:
    """Of fla's output, against float64."""
    tokens, state = sequence(bench, 4096, 64, 128)
    exact = (x.double() for x in tokens)
    truth = by_torch(*exact, decay.double(), Segments.of([4096]), state.double())[0]
    return off(run(tokens, decay, state), truth)


def steps(bench: Bench, slots: int, decay: Tensor) -> None:
    """A decode step from given states to new ones; SiLU was before, norm and gate are not part of it."""
    from fla.ops.simple_gla import fused_recurrent_simple_gla as op

    state_bytes = 4 * 64 * 128 * 128
    sets = max(1, min(64, -(-int(COLD) // (slots * state_bytes))))
    pool = bench.random(sets, slots, 64, 128, 128, dtype=torch.float32)
    tokens = silu(bench.random(slots, 64, 3 * 128)).split(128, -1)
    q, k, v = (x[:, None].contiguous() for x in tokens)
    options: dict[str, Any] = {"g_gamma": -decay, "scale": 1.0, "output_final_state": True}
    ms = bench.replay([partial(op, q, k, v, initial_state=states, **options) for states in pool])
    bench.tell(f"{slots} slots", ms, moved=2 * state_bytes * slots)


def warm() -> None:
    """Compiles all that fla would try, into Triton's cache; processes that fail leave it to fla itself."""
    environment = {**os.environ, "FLA_CACHE_RESULTS": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(number)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for number, process in enumerate(started):
        said = process.communicate()[1]
        if process.returncode:
            print(f"warming fla {number}: {said.strip().splitlines()[-1:]}", flush=True)


def compile_share(number: int) -> None:
    """What one process does: fla's host code runs on one short sequence, its launches are caught and not run."""
    from gpu_resources import compiled, recorded
    from triton.runtime.autotuner import Autotuner

    def attempt(self: Any, *args: Any, config: Any, **meta: Any) -> list[float]:
        self.fn.run(*args, **{**meta, **config.all_kwargs()})
        return [1.0, 1.0, 1.0]

    Autotuner._bench = attempt
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    decay, state = torch.ones(64, device=device), torch.zeros(1, 64, 128, 128, device=device)
    tokens = [torch.zeros(256, 64, 128, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3)]
    with recorded() as launches:
        out = run(tokens, decay, state)
        torch.autograd.grad(out, tokens, torch.zeros_like(out))
    for launch in launches[number::PROCESSES]:
        try:
            compiled(launch)
        except Exception as error:  # a configuration that does not fit: fla passes it by as well
            print(f"{launch.kernel.__name__}: {type(error).__name__}", file=sys.stderr)


if __name__ == "__main__":
    compile_share(int(sys.argv[1]))
