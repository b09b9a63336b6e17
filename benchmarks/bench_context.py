"""Contexts on disk with nano: reading a long text once, and what a question to it costs afterwards.

    python benchmarks/bench_context.py [--lengths 102400 262144 1040000] [--asks 5] [--record]

For each length a text of filler with one fact at each of several depths is written to a file and read by
`minimax-m1 context create` in a process of its own: seconds, tokens/s, peak memory, size on disk. Then, in one process
and on engines that hold nothing, the time to the first token of a question: with the context from disk, and reading
everything again. Last, every fact is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from minimax_m1.engine.request import SamplingParams
from minimax_m1.kernels.ops import Ops
from minimax_m1.llm import LLM
from minimax_m1.llm import context as on_disk
from minimax_m1.location import locate
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.tasks.prose import sentence
from minimax_m1.tasks.recall import facts

DEPTHS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
GREEDY = SamplingParams(temperature=0, max_tokens=24)


def book(llm: LLM, tokens: int, rng: random.Random) -> tuple[str, list[tuple[float, str, str]]]:
    """A text of about so many tokens, and (depth, key, value) of each fact in it."""
    fact, tokenizer = facts(rng), llm.get_tokenizer()
    told = [(depth, *fact()) for depth in DEPTHS]
    parts: list[str] = []
    count = 0
    for depth, key, value in told:
        while count < depth * (tokens - 100):
            some = " ".join(sentence(rng) for _ in range(20)) + " "
            parts.append(some)
            count += len(tokenizer.encode(some))
        parts.append(f"The code of {key} is {value}. ")
        count += len(tokenizer.encode(parts[-1]))
    while count < tokens - 200:
        some = sentence(rng) + " "
        parts.append(some)
        count += len(tokenizer.encode(some))
    return "".join(parts).strip(), told


def create(text: Path, folder: Path) -> dict[str, Any]:
    """Reads the text in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "minimax_m1", "context", "create", str(text), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "the context could not be made"
    seconds = time.monotonic() - began
    size = sum(file.stat().st_size for file in folder.iterdir())
    tokens = json.loads((folder / "manifest.json").read_text("utf-8"))["tokens"]
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
        "disk_mb": round(size / 2**20, 1),
    }


def first_token(llm: LLM, prompt: Any) -> float:
    """Seconds until the reply's first token."""
    began = time.perf_counter()
    for _, event in llm.stream(prompt, GREEDY):
        if event.token_id is not None:
            break
    return time.perf_counter() - began


def measure(model: MiniMaxM1ForCausalLM, tokenizer: Any, length: int, asks: int) -> dict[str, Any]:
    home = locate("nano")

    def fresh(**limits: Any) -> LLM:
        return LLM.of(model, tokenizer, folder=home, **limits)

    llm = fresh()
    text, told = book(llm, length, random.Random(length))
    with tempfile.TemporaryDirectory() as scratch:
        file, folder = Path(scratch) / "book.txt", Path(scratch) / "book.ctx"
        file.write_text(text, "utf-8")
        report: dict[str, Any] = create(file, folder)
        from_disk, again = [], []
        asked = f"What is the code of {told[0][1]}?"
        for _ in range(asks):
            llm = fresh()
            _ = llm.fingerprint
            began = time.perf_counter()
            prompt = on_disk.question(llm, on_disk.open_context(llm, folder), asked)
            from_disk.append(time.perf_counter() - began + first_token(llm, prompt))
        ids = prompt["prompt_token_ids"]
        for _ in range(1 if length > 200_000 else min(asks, 3)):
            again.append(first_token(fresh(enable_prefix_caching=False), {"prompt_token_ids": ids}))
        llm = fresh()
        context = on_disk.open_context(llm, folder)
        right = {}
        for depth, key, value in told:
            [output] = llm.generate([on_disk.question(llm, context, f"What is the code of {key}?")], GREEDY)
            right[f"{depth:.2f}"] = value in output.outputs[0].content
    report |= {
        "first_token_from_disk_s": round(statistics.median(from_disk), 4),
        "first_token_reading_again_s": round(statistics.median(again), 3),
        "times_faster": round(statistics.median(again) / statistics.median(from_disk), 1),
        "right_by_depth": right,
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[102_400, 262_144, 1_040_000])
    parser.add_argument("--asks", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()
    llm = LLM("nano")
    tokenizer = llm.get_tokenizer()
    model = MiniMaxM1ForCausalLM.from_pretrained("nano", ops=Ops.fastest(torch.device("cpu")), progress=False)
    first_token(LLM.of(model, tokenizer), "warm")  # compiles
    results = {}
    for length in args.lengths:
        results[str(length)] = measure(model, tokenizer, length, args.asks)
        print(json.dumps({length: results[str(length)]}, indent=2), flush=True)
    if args.record:
        report = {
            "benchmark": "context",
            "command": " ".join(["python", *sys.argv]),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "results": results,
        }
        with (Path(__file__).parent / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
