"""Training steps beside transformers' MiniMaxForCausalLM and AdamW, from the same weights and on the same documents.

    python benchmarks/bench_train.py [--passes 3] [--record] [--markdown]

29.8M parameters (the shape "small" of bench_peers.py). Two sets of documents: "mixed", whose lengths are log-uniform
from 64 to 4,096 tokens, about 8,192 of them a step, and "full", 4 rows of 1,024, where no padding is to be saved. Ours
packs; transformers, which cannot tell packed documents apart in its linear layers, gets rows padded on the right and
no mask (a token sees nothing behind it, and their loss is left out), all the documents of a pass sorted by length, so
that little padding is left. Only real tokens count. Each runs in float32 and under bfloat16's autocast, transformers
also with each of its kinds of attention and of experts; every such setting has a process of its own, on all cores. A
pass goes once over the documents, after a step that warms up; the figure is the median pass, memory the process's peak.

The same documents must cost the same before any figure is printed: loss and norm of the gradients of a first step, and
on full rows the loss of every later one. transformers' loss on the router's balance is off, as its default is; ours is
worked out and weighs nothing. `--record` appends to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bench_peers import SHAPES, peak_memory, write_model

HERE = Path(__file__).parent
STEP_TOKENS = 8192  # of a step on mixed documents, at most
SHORTEST, LONGEST = 64, 4096
ROWS, WIDTH = 4, 1024  # of a step on full rows
STEPS = 4  # of a pass
CHECKED = 1024  # tokens of the documents that are compared first
RATE, BETAS, EPSILON, DECAY, CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
# Shares by which the first step may differ. The gradients' norm takes part in float32 alone: there tokens whose experts
# are nearly equal go to the same ones.
BOUNDS = {"float32": 1e-3, "bfloat16": 1e-2}

Ids = list[int]
Step = Callable[[Sequence[Ids]], tuple[float, float]]  # documents of a step -> loss, norm of the gradients


def documents(kind: str, vocabulary: int) -> list[list[Ids]]:
    """The documents of a pass, step by step: the same at every call."""
    rng = np.random.default_rng(0)

    def document(length: int) -> Ids:
        ids: Ids = rng.integers(0, vocabulary, length).tolist()
        return ids

    if kind == "full":
        return [[document(WIDTH) for _ in range(ROWS)] for _ in range(STEPS)]
    steps: list[list[Ids]] = [[]]
    while True:
        length = round(SHORTEST * (LONGEST / SHORTEST) ** rng.random())
        if sum(map(len, steps[-1])) + length > STEP_TOKENS:
            if len(steps) == STEPS:
                return steps
            steps.append([])
        steps[-1].append(document(length))


def by_length(steps: list[list[Ids]]) -> list[list[Ids]]:
    """All the documents sorted by length, in batches of at most `STEP_TOKENS` with their padding; longest first."""
    batches: list[list[Ids]] = []
    for ids in sorted((ids for step in steps for ids in step), key=len, reverse=True):
        if not batches or len(batches[-1][0]) * (len(batches[-1]) + 1) > STEP_TOKENS:
            batches.append([])
        batches[-1].append(ids)
    return batches


def first_documents(vocabulary: int) -> list[Ids]:
    """A few short documents of different lengths, to be compared."""
    kept: list[Ids] = []
    for ids in sorted((ids for step in documents("mixed", vocabulary) for ids in step), key=len):
        if sum(map(len, kept)) + len(ids) <= CHECKED:
            kept.append(ids)
    return kept


def run_ours(job: dict[str, Any]) -> tuple[Step, Callable[[list[list[Ids]]], list[list[Ids]]], str]:
    import torch

    from minimax_m1 import MiniMaxM1ForCausalLM
    from minimax_m1.train.document import Document
    from minimax_m1.train.optimizer import adamw
    from minimax_m1.train.pack import pack
    from minimax_m1.train.step import train_step

    model = MiniMaxM1ForCausalLM.from_pretrained(job["folder"], dtype="float32", progress=False)
    model.config = model.config.replace(router_aux_loss_coef=0.0)
    optimizer = adamw(model, rate=RATE, betas=BETAS, eps=EPSILON, decay=DECAY)

    def step(texts: Sequence[Ids]) -> tuple[float, float]:
        plain = [Document(ids=t, said=[1] * len(t), positions=list(range(len(t))), place="") for t in texts]
        data = pack(plain, 1.0)
        precision = job["precision"]
        figures = train_step(model, optimizer, data, rate=RATE, clip_norm=CLIP, precision=precision, report=False)
        return figures["loss"], figures["grad_norm"]

    return step, lambda steps: steps, f"torch {torch.__version__}"


def run_transformers(job: dict[str, Any]) -> tuple[Step, Callable[[list[list[Ids]]], list[list[Ids]]], str]:
    import torch
    import transformers

    from minimax_m1.train.optimizer import adamw

    model = transformers.MiniMaxForCausalLM.from_pretrained(
        job["folder"], dtype="float32", attn_implementation=job["attention"]
    ).train()
    model.set_experts_implementation(job["experts"])
    optimizer = adamw(model, rate=RATE, betas=BETAS, eps=EPSILON, decay=DECAY)

    def step(texts: Sequence[Ids]) -> tuple[float, float]:
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
        labels = torch.tensor([[*text, *[-100] * (width - len(text))] for text in texts])
        with torch.autocast("cpu", torch.bfloat16, enabled=job["precision"] == "bfloat16"):
            loss = model(ids, labels=labels, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    return step, by_length if job["kind"] == "mixed" else lambda steps: steps, transformers.__version__


ENGINES = {"ours": run_ours, "transformers": run_transformers}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own does: the first step, which is compared, then passes over the documents."""
    step, arrange, version = ENGINES[job["engine"]](job)
    first = step(first_documents(job["vocabulary"]))
    batches = arrange(documents(job["kind"], job["vocabulary"]))
    step(batches[0])  # the largest of transformers' batches; buffers come into being
    real = sum(len(ids) for batch in batches for ids in batch)
    rates, losses = [], []
    for _ in range(job["passes"]):
        began = time.perf_counter()
        losses += [step(batch)[0] for batch in batches]
        rates.append(real / (time.perf_counter() - began))
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    return {
        "tokens_per_second": round(statistics.median(rates), 1),
        "peak_mb": round(peak_memory() / 2**20, 1),
        "first": first,
        "losses": [round(loss, 6) for loss in losses],
        "padding": 0.0 if job["engine"] == "ours" else round(1 - real / padded, 4),
        "version": version,
    }


def settings() -> Iterator[dict[str, str]]:
    """Every engine in every way that it is run."""
    for precision in BOUNDS:
        yield {"engine": "ours", "precision": precision}
        for attention, experts in product(("sdpa", "eager"), ("grouped_mm", "eager")):
            yield {"engine": "transformers", "precision": precision, "attention": attention, "experts": experts}


def in_a_process(job: dict[str, Any]) -> dict[str, Any]:
    """The result of one setting, or the end of everything with its last words."""
    print(", ".join(str(job[key]) for key in WORDS if key in job), "...", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


WORDS = ("kind", "engine", "precision", "attention", "experts")  # of a job, those that tell it apart


def agree(results: list[dict[str, Any]]) -> None:
    """Ends the run unless every setting has the losses of ours in float32 within its bound; NaN has not."""
    reference = results[0]
    for each in results[1:]:
        bound = BOUNDS[each["precision"]]
        pairs = {"loss": (each["first"][0], reference["first"][0])}
        if each["precision"] == "float32":
            pairs["norm of the gradients"] = (each["first"][1], reference["first"][1])
        if each["kind"] == "full":  # the same steps from the same weights
            for number, pair in enumerate(zip(each["losses"], reference["losses"], strict=False)):
                pairs[f"loss of step {number}"] = pair
        for what, (other, mine) in pairs.items():
            if not abs(other - mine) <= bound * abs(mine):
                setting = ", ".join(str(each[key]) for key in WORDS if key in each)
                raise SystemExit(f"{what} is {other:.5f} with {setting}, and {mine:.5f} with ours: no figures")


def compare(folder: Path, passes: int) -> dict[str, list[dict[str, Any]]]:
    """Results of every setting, by kind of documents: one pass each, and more with the best of each engine."""
    shape = SHAPES["small"]
    write_model(shape, folder)
    told: dict[str, list[dict[str, Any]]] = {}
    for kind in ("mixed", "full"):
        common = {"kind": kind, "folder": str(folder), "vocabulary": shape["config"]["vocab_size"], "passes": 1}
        results = told[kind] = [{**each, "kind": kind, **in_a_process({**common, **each})} for each in settings()]
        agree(results)
        for engine in ENGINES if passes > 1 else ():
            best = fastest(results, engine)
            job = {**common, **{key: best[key] for key in WORDS if key in best}, "passes": passes}
            best |= in_a_process(job)
    return told


def fastest(results: Sequence[dict[str, Any]], engine: str) -> dict[str, Any]:
    return max(
        (each for each in results if each["engine"] == engine), key=lambda each: float(each["tokens_per_second"])
    )


def show(told: dict[str, list[dict[str, Any]]], markdown: bool) -> None:
    """Every setting, then our best against their best."""
    heading = ["documents", "engine", "precision", "attention", "experts", "real tokens/s", "peak MB", "padding"]
    lines = [heading]
    for results in told.values():
        for each in results:
            figures = [f"{each['tokens_per_second']:,.0f}", f"{each['peak_mb']:,.0f}", f"{each['padding']:.0%}"]
            lines.append([*(str(each.get(key, "")) for key in WORDS), *figures])
    for number, line in enumerate(lines):
        if markdown:
            print("| " + " | ".join(line) + " |" + ("\n|" + "---|" * len(line) if number == 0 else ""))
        else:
            print("".join(f"{cell:>14}" for cell in line))
    for kind, results in told.items():
        mine, other = (fastest(results, engine) for engine in ENGINES)
        least = {engine: min(each["peak_mb"] for each in results if each["engine"] == engine) for engine in ENGINES}
        print(
            f"\n{kind}: ours {mine['tokens_per_second']:,.0f} tokens/s ({mine['precision']}), transformers "
            f"{other['tokens_per_second']:,.0f} ({other['precision']}, {other['attention']}, {other['experts']}): "
            f"{mine['tokens_per_second'] / other['tokens_per_second']:.2f} times; at these settings "
            f"{mine['peak_mb']:,.0f} and {other['peak_mb']:,.0f} MB, at the leanest {least['ours']:,.0f} and "
            f"{least['transformers']:,.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3, help="over the documents, with the best setting of each")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(work(json.loads(options.job))))
        return
    from minimax_m1.cli.bench import rates

    machine = rates(2**28, 2048, 5)
    with tempfile.TemporaryDirectory() as scratch:
        told = compare(Path(scratch) / "model", options.passes)
    show(told, options.markdown)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    record = {
        "benchmark": "train",
        "model": SHAPES["small"]["says"],
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "kind": platform.machine(), **machine},
        "commit": commit.stdout.strip(),
        "versions": {each["engine"]: each["version"] for each in told["mixed"]},
        "results": told,
    }
    print(json.dumps(record))
    if options.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as results:
            results.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
