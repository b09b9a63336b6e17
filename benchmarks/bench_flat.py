"""Flat cost: a decode step's time after a short and a long past, and where the memory of a long prefill goes.

    python benchmarks/bench_flat.py [--tokens 131072] [--prefill 262144] [--model nano] [--rounds 60] [--record]

Steps: the model really reads 1,024 and `--tokens` random tokens (1000000 takes nano about a minute). From the states
that this leaves, the lightning layers alone (mixer, norms and experts, each layer on the output of the one before) and
whole decode steps run in turns, short and long past alternating, and the median is taken. Memory: a fresh process loads
the model into the engine that serves and reads `--prefill` tokens; what its peak has above the loaded model is told
line by line. Lines of what is held are counted from shapes, the others measured. `--record` appends to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHORT = 1024  # tokens of the short past
STEPS = 8  # a time is taken over so many steps


def resident(name: str) -> int:
    """Bytes of this process that are in memory now ("VmRSS"), or were at most ("VmHWM")."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def load(name: str) -> Any:
    import torch

    from minimax_m1 import MiniMaxM1ForCausalLM
    from minimax_m1.kernels.ops import Ops

    return MiniMaxM1ForCausalLM.from_pretrained(name, ops=Ops.fastest(torch.device("cpu")), progress=False)


def steps(name: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Microseconds of a step after a short and a long past, in the lightning layers and in all of the model."""
    import torch

    from minimax_m1.cli.bench import random_ids
    from minimax_m1.config import LIGHTNING
    from minimax_m1.kernels.rope.reference import rope_tables
    from minimax_m1.model.batch import Batch
    from minimax_m1.model.generation import prefill

    model = load(name)
    config = model.config
    layers = [layer for kind, layer in zip(config.attn_type_list, model.model.layers, strict=True) if kind == LIGHTNING]
    ids = random_ids(config.vocab_size, STEPS, 0)

    def actions(past: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """`STEPS` steps of the lightning layers, and of the model, each going on from where it came to."""
        began = time.perf_counter()
        state, _ = prefill(model, torch.tensor(random_ids(config.vocab_size, past, 1)))
        print(f"read {past:,} tokens in {time.perf_counter() - began:.1f} s", file=sys.stderr)
        memories = list(state.lightning)
        batch = Batch.of([ids[:1]], state)
        tables = rope_tables(batch.positions, config.rotary_dim, config.rope_theta, torch.float32)

        def lightning() -> None:
            for token in ids:
                x = model.model.embed_tokens(torch.tensor([token]))
                for at, layer in enumerate(layers):
                    x, memories[at], _ = layer(x, batch, tables, memories[at], 1.0, model.ops)

        def whole() -> None:
            nonlocal state
            for token in ids:
                state = model.run(Batch.of([[token]], state), state).state

        return lightning, whole

    with torch.inference_mode():
        runs = {(past, kind): run for past in (SHORT, tokens) for kind, run in enumerate(actions(past))}
        times: dict[tuple[int, int], list[float]] = {key: [] for key in runs}
        for _ in range(3 + rounds):  # the first three warm up
            for key, run in runs.items():
                began = time.perf_counter()
                run()
                times[key].append((time.perf_counter() - began) / STEPS)
    taken = {key: statistics.median(each[3:]) for key, each in times.items()}
    report: dict[str, Any] = {"short": SHORT, "long": tokens, "lightning_layers": len(layers), "rounds": rounds}
    for kind, what in enumerate(("lightning layers", "whole step")):
        short, long = taken[SHORT, kind], taken[tokens, kind]
        report[what] = {
            "short_us": round(1e6 * short, 1),
            "long_us": round(1e6 * long, 1),
            "ratio": round(long / short, 3),
        }
    return report


def memory(name: str, tokens: int) -> dict[str, Any]:
    """MB that a process has when it has read a long prompt, by what they are for. Call it in a fresh process."""
    import torch

    from minimax_m1.cli.bench import random_ids, together
    from minimax_m1.engine.config import EngineConfig
    from minimax_m1.engine.engine import ModelEngine
    from minimax_m1.kernels.ops import Ops
    from minimax_m1.model.checkpoint import published_views

    prompt = random_ids(256, tokens, 1)  # numbers that Python has anyway
    Ops.fastest(torch.device("cpu"))
    before = resident("VmRSS")
    model = load(name)
    loaded = resident("VmRSS")
    config = EngineConfig(max_num_seqs=1)
    engine = ModelEngine(model, eos_ids=(), max_model_len=tokens + 8, config=config)
    together(engine, [prompt[: 2 * config.prefill_tokens]], 0)
    engine.forget()
    warm = resident("VmHWM")
    began = time.perf_counter()
    together(engine, [prompt], 0)
    seconds = time.perf_counter() - began
    peak = resident("VmHWM")
    state = model.empty_state(1)
    width = 2 * model.config.num_key_value_heads * model.config.head_dim * model.dtype.itemsize
    held = {
        "keys and values": tokens * width * len(state.softmax),
        "lightning states": sum(each.nbytes for each in state.lightning),
        "checkpoints of the prefix cache": engine.holdings.checkpoint_bytes,
    }
    lines = {
        "above the loaded model": peak - loaded,
        "the first two chunks, kernels with them": warm - loaded,
        **held,
        "all else": peak - warm - sum(held.values()),
    }
    return {
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds),
        "libraries_mb": round(before / 2**20, 1),
        "weights_mb": round(sum(each.nbytes for each in published_views(model).values()) / 2**20, 1),
        "loaded_mb": round(loaded / 2**20, 1),
        "peak_mb": round(peak / 2**20, 1),
        "lines_mb": {what: round(size / 2**20, 1) for what, size in lines.items()},
    }


def show(steps: dict[str, Any], memory: dict[str, Any]) -> None:
    print(f"{'a decode step after':24}{steps['short']:>12,}{steps['long']:>12,} tokens   ratio")
    for what in ("lightning layers", "whole step"):
        told = steps[what]
        print(f"{what:24}{told['short_us']:>9,.0f} µs{told['long_us']:>9,.0f} µs{told['ratio']:>15.2f}")
    print(
        f"\na prefill of {memory['tokens']:,} tokens at {memory['tokens_per_second']:,} tokens/s: peak "
        f"{memory['peak_mb']:,.1f} MB; {memory['libraries_mb']:,.1f} with libraries alone, {memory['loaded_mb']:,.1f} "
        f"with the model, whose weights are {memory['weights_mb']:,.1f}"
    )
    for what, size in memory["lines_mb"].items():
        print(f"{size:>10,.1f} MB  {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=131_072, help="the long past")
    parser.add_argument("--prefill", type=int, default=262_144, help="tokens of the prefill whose memory is told")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.model, options.prefill)))
        return
    command = [sys.executable, __file__, "--memory", "--model", options.model, "--prefill", str(options.prefill)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the prefill failed:\n{done.stderr}")
    held = json.loads(done.stdout.splitlines()[-1])
    timed = steps(options.model, options.tokens, options.rounds)
    show(timed, held)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    record = {
        "benchmark": "flat",
        "model": options.model,
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": commit.stdout.strip(),
        "steps": timed,
        "memory": held,
    }
    print(json.dumps(record))
    if options.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as results:
            results.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
