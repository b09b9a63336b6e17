"""Side by side with transformers on the same weights: prefill, decode and peak memory, and the ratios.

    python benchmarks/bench_transformers.py [--repeats 5] [--dtype float32|bfloat16] [--record]

A random 29.8M-parameter model (hidden 256, 8 layers, softmax last, 4 heads of 64, 8 experts of 512, vocabulary 4096;
the whole head turned, as transformers does) is written once; each engine reads it in a process of its own, in turn,
with all cores. Logits are compared before any time is taken. Each figure is the median of the repeats; transformers
is timed with each of its expert implementations and its best figure is used. `--record` appends to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PREFILLS = (512, 2048, 8192)
DECODED = 64
PEER_EXPERTS = {"eager": "eager", "grouped_mm": "grouped_mm", "batched_mm": "grouped_mm"}  # in decode: in prefill
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.2}  # of the logits' norm; in bfloat16 rounding changes some routes
HERE = Path(__file__).parent


def write_model(folder: Path) -> None:
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    config = MiniMaxConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        num_local_experts=8,
        num_experts_per_tok=2,
        layer_types=["linear_attention"] * 7 + ["full_attention"],
        full_attn_alpha_factor=2.0,
        linear_attn_alpha_factor=2.0,
        mlp_alpha_factor=2.0,
        max_position_embeddings=16384,
    )
    torch.manual_seed(0)
    model = MiniMaxForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.05)
    model.save_pretrained(folder)


def prompt(length: int) -> torch.Tensor:
    return torch.randint(0, 4096, (1, length), generator=torch.Generator().manual_seed(length))


def seconds(action: Callable[[], Any], repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@torch.inference_mode()
def run_ours(folder: Path, repeats: int, dtype: str) -> dict[str, Any]:
    from minimax_m1 import MiniMaxM1ForCausalLM
    from minimax_m1.kernels.ops import Ops
    from minimax_m1.model.batch import Batch
    from minimax_m1.model.generation import prefill

    model = MiniMaxM1ForCausalLM.from_pretrained(folder, dtype=dtype, ops=Ops.cpu(), progress=False)
    figures: dict[str, Any] = {}
    torch.save(model(prompt(600)).logits, folder / "ours.pt")
    for length in PREFILLS:
        figures[f"prefill {length}"] = length / seconds(lambda n=length: prefill(model, prompt(n)[0]), repeats)
    for length in PREFILLS:
        begin, logits = prefill(model, prompt(length)[0])

        def decode(state: Any = begin, logits: torch.Tensor = logits) -> None:
            for _ in range(DECODED):
                run = model.run(Batch.of([[int(logits.argmax())]], state), state)
                assert run.logits is not None
                state, logits = run.state, run.logits

        figures[f"decode after {length}"] = DECODED / seconds(decode, repeats)
    return figures


@torch.inference_mode()
def run_transformers(folder: Path, repeats: int, dtype: str, experts: str) -> dict[str, Any]:
    from transformers import MiniMaxForCausalLM
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    implementation = PEER_EXPERTS[experts]
    model = MiniMaxForCausalLM.from_pretrained(folder, experts_implementation=implementation, dtype=dtype).eval()
    torch.save(model(prompt(600)).logits, folder / f"transformers-{experts}.pt")
    figures: dict[str, Any] = {}

    def prefilled(length: int) -> Any:
        return model(prompt(length), past_key_values=MiniMaxCache(), use_cache=True, logits_to_keep=1)

    for length in PREFILLS:
        figures[f"prefill {length}"] = length / seconds(lambda n=length: prefilled(n), repeats)
    for length in PREFILLS:

        def decode(length: int = length) -> float:
            model.set_experts_implementation(PEER_EXPERTS[experts])
            out = prefilled(length)
            model.set_experts_implementation(experts)  # batched_mm copies weights for each token: decode only
            began = time.perf_counter()
            for step in range(DECODED):
                ids = out.logits[:, -1:].argmax(-1)
                at = torch.tensor([[length + step]])
                out = model(ids, past_key_values=out.past_key_values, use_cache=True, position_ids=at)
            return time.perf_counter() - began

        decode()
        figures[f"decode after {length}"] = DECODED / statistics.median(decode() for _ in range(repeats))
    return figures


def in_a_process(engine: str, folder: Path, repeats: int, dtype: str) -> dict[str, Any]:
    options = ["--engine", engine, "--folder", str(folder), "--repeats", str(repeats), "--dtype", dtype]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(repeats: int, dtype: str) -> dict[str, Any]:
    import transformers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        ours = in_a_process("ours", folder, repeats, dtype)
        theirs: dict[str, Any] = {}
        for experts in PEER_EXPERTS:
            figures = in_a_process(f"transformers-{experts}", folder, repeats, dtype)
            mine, other = (torch.load(folder / f"{name}.pt").float() for name in ("ours", f"transformers-{experts}"))
            gap = (mine - other).norm() / other.norm()
            if not gap < AGREEMENT[dtype]:
                raise SystemExit(f"logits differ from transformers ({experts}) by {gap:.1e} of their norm: no figures")
            for key, value in figures.items():
                best = min if key.startswith("peak") else max
                theirs[key] = best(theirs.get(key, value), value)
    return {
        "benchmark": "transformers",
        "model": f"29.8M {dtype}, hidden 256, 8 layers, 8 experts of 512",
        "ours": {k: round(v, 1) for k, v in ours.items()},
        "transformers": {k: round(v, 1) for k, v in theirs.items()},
        "ratio": {k: round(theirs[k] / ours[k] if k.startswith("peak") else ours[k] / theirs[k], 2) for k in ours},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": commit(),
        "repeats": repeats,
    }


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=list(AGREEMENT), default="float32")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        if options.engine == "ours":
            figures = run_ours(options.folder, options.repeats, options.dtype)
        else:
            figures = run_transformers(
                options.folder, options.repeats, options.dtype, options.engine.removeprefix("transformers-")
            )
        figures["peak memory MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    row = compare(options.repeats, options.dtype)
    print(f"{'':22}{'ours':>10}{'transformers':>14}{'ratio':>8}   (tokens/s; ratio above 1: ours is better)")
    for key, value in row["ours"].items():
        print(f"{key:22}{value:>10,.0f}{row['transformers'][key]:>14,.0f}{row['ratio'][key]:>8.2f}")
    print(json.dumps(row))
    if options.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as results:
            results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
