"""Side by side with transformers and llama.cpp on the same random weights: prefill, decode, 32 at once, peak memory.

    python benchmarks/bench_peers.py --shape small|large [--llama-python JUDGE/bin/python] [--record] [--markdown]

JUDGE is another environment, with llama-cpp-python 0.3.36 or later (`python -m venv JUDGE`, `JUDGE/bin/pip install
llama-cpp-python`, about 5 minutes to build); without it there is no column for llama.cpp. small: 29.8M parameters, in
float32 and bfloat16. large: 1.35B in bfloat16, 7 GB in a temporary folder. Every engine runs in a process of its own,
one after the other, on all cores, and its better figure is taken for each line; 8-bit weights have a table beside it.

Ours is the engine that serves, with its sampler, and below it the bare model's decode. transformers runs with each of
its implementations of experts; llama.cpp with keys and values in the file's type and in f16, with and without flash
attention. What is best at a length that takes little time goes on to longer ones. A figure is the median of a few runs,
fewer where one is slow, each of 64 greedy steps, or 32. For 32 at once ours reads 32 prompts; the others read one, copy
what it left, and go on with 16 tokens of each one's own. Logits are compared, read at once and one by one, before any
figure is printed. `--record` appends to results.jsonl. This file is longer than 400 lines because three engines answer
to one table.
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
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")
HERE = Path(__file__).parent
# "bounds" are shares of the logits' norm, over tokens read at once and then one by one. float32 settles that all three
# compute the same. In bfloat16 each rounds at other places (transformers its decays and states too), and a token whose
# experts are nearly equal then goes to another one: off by 0.04 in 8 layers and by 0.21 in 16, as far as each is from
# float32 (0.22). 8-bit weights are rounded by blocks of 32 there and by rows here: 0.05 and 0.26. A wrong token is 1.2.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "says": "29.8M: hidden 256, 8 layers, softmax last, 4 heads of 64, 8 experts of 512, vocabulary 4096",
        "config": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 512, "num_local_experts": 8},
        "heads": 4,
        "layers": 8,
        "std": 0.05,
        "weights": ("float32", "bfloat16"),
        "lengths": (512, 2048, 8192, 32768),
        "bounds": {"float32": 1e-3, "bfloat16": 0.1, "8 bit": 0.1},
        "trial": 2048,  # up to here every setting runs, beyond it those that were best here
    },
    "large": {
        "says": "1.35B: hidden 1024, 16 layers, softmax each 8th, 16 heads of 64, 16 experts of 1536, vocabulary 32000",
        "config": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 1536, "num_local_experts": 16},
        "heads": 16,
        "layers": 16,
        "std": 0.03,
        "weights": ("bfloat16",),
        "lengths": (512, 2048),
        "bounds": {"bfloat16": 0.3, "8 bit": 0.4},
        "trial": 512,
    },
}
ASKED, SINGLE = 600, 16  # tokens whose logits are compared; those of them that are read one by one
TOGETHER, OWN = 32, 16  # sequences side by side; the last tokens of their past, which are each one's own
SIDE_PAST = 512  # tokens of past that each of them has
PATIENCE = 8.0  # seconds; no further run is begun for a figure that has taken so long
GGUF = {"float32": "f32", "bfloat16": "bf16", "8 bit": "q8_0"}
EXPERTS = (("eager", "eager"), ("grouped_mm", "grouped_mm"), ("grouped_mm", "batched_mm"))  # in prefill, in decode
KEYS = {"float32": 0, "bfloat16": 30, "f16": 1}  # ggml's numbers of types


def prompt(vocabulary: int, length: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng((seed, length)).integers(0, vocabulary, length).tolist()
    return ids


def gap(mine: Any, other: Any) -> float:
    """The norm of the difference, as a share of our norm."""
    return float(np.linalg.norm(mine - other) / np.linalg.norm(mine))


def agree(engine: str, weights: str, gaps: dict[str, float], bound: float) -> None:
    """Ends the run unless the logits of every setting lie within the bound; NaN does not."""
    for setting, off in gaps.items():
        if not off < bound:
            raise SystemExit(
                f"logits of {engine} ({weights}, {setting}) differ from ours by {off:.1e} of their norm, "
                f"more than {bound:g}: no figures"
            )


def peak_memory() -> int:
    """Bytes; getrusage's would begin with what the process had that started this one."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def several(action: Callable[[], Result], repeats: int) -> list[Result]:
    """What runs of an action give: at most `repeats`, and none begun after `PATIENCE`."""
    results: list[Result] = []
    began = time.perf_counter()
    while not results or (len(results) < repeats and time.perf_counter() - began < PATIENCE):
        results.append(action())
    return results


def alone(
    job: dict[str, Any], settings: Sequence[Any], run: Callable[[Any, int], tuple[float, float]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Tokens/s of prefill and decode at each length, best of the settings, and which it was.

    `run(setting, length)` gives the seconds of a prefill and of the decode steps after it.
    """
    figures: dict[str, float] = {}
    chosen: dict[str, str] = {}
    going = list(settings)
    for length in job["lengths"]:
        winners = {}
        for setting in going:
            times = several(partial(run, setting, length), job["repeats"])
            read, wrote = (statistics.median(each) for each in zip(*times, strict=True))
            for cell, rate in ((f"prefill {length}", length / read), (f"decode after {length}", job["steps"] / wrote)):
                if rate > figures.get(cell, 0):
                    figures[cell], chosen[cell], winners[cell] = rate, str(setting), setting
        if length >= job["trial"]:
            going = [setting for setting in going if setting in winners.values()]
    figures["peak memory MB"] = peak_memory() / 2**20
    return figures, chosen


def run_ours(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from minimax_m1 import MiniMaxM1ForCausalLM
    from minimax_m1.cli.bench import step_bytes, together
    from minimax_m1.engine.config import EngineConfig
    from minimax_m1.engine.engine import ModelEngine
    from minimax_m1.kernels.ops import Ops
    from minimax_m1.model.batch import Batch
    from minimax_m1.model.generation import prefill

    model = MiniMaxM1ForCausalLM.from_pretrained(
        job["folder"],
        dtype=job["dtype"],
        quantization="int8" if job["weights"] == "8 bit" else None,
        ops=Ops.fastest(torch.device("cpu")),
        progress=False,
    )
    engine = ModelEngine(model, eos_ids=(), config=EngineConfig(max_num_seqs=TOGETHER))
    vocabulary, steps = model.config.vocab_size, job["steps"]

    def run(setting: None, length: int) -> tuple[float, float]:
        engine.forget()
        times = together(engine, [prompt(vocabulary, length, 1)], steps)
        return times.first, times.step * steps

    def side_by_side() -> float:
        engine.forget()
        prompts = [prompt(vocabulary, SIDE_PAST, 2 + seed) for seed in range(TOGETHER)]
        return together(engine, prompts, job["side_steps"]).step

    together(engine, [prompt(vocabulary, 64, 0)], 4)  # kernels compile, or come from numba's cache
    figures, _ = alone(job, [None], run)
    moved = {f"decode after {length}": step_bytes(model, length, 1) for length in job["lengths"]}
    for length in job["lengths"]:
        with torch.inference_mode():
            state, last = prefill(model, torch.tensor(prompt(vocabulary, length, 1)))

            def decode() -> float:
                nonlocal state, last
                began = time.perf_counter()
                for _ in range(steps):
                    run = model.run(Batch.of([[int(last.argmax())]], state), state)
                    assert run.logits is not None
                    state, last = run.state, run.logits
                return time.perf_counter() - began

            cell = f"bare decode after {length}"
            figures[cell] = steps / statistics.median(several(decode, job["repeats"]))
        moved[cell] = moved[f"decode after {length}"]
    cell = f"{TOGETHER} at once after {SIDE_PAST}"
    figures[cell] = TOGETHER / statistics.median(several(side_by_side, job["repeats"]))
    moved[cell] = step_bytes(model, SIDE_PAST, TOGETHER) / TOGETHER
    with torch.inference_mode():
        ids = torch.tensor([prompt(vocabulary, ASKED, 0)])
        out = model(ids[:, :-SINGLE])
        logits = [out.logits[0]]
        for at in range(ASKED - SINGLE, ASKED):
            out = model(ids[:, at : at + 1], state=out.state)
            logits.append(out.logits[0])
    np.save(job["logits"], torch.cat(logits).numpy())
    bandwidth = {cell: figures[cell] * each / 1e9 for cell, each in moved.items()}
    return {"figures": figures, "gb_per_second": bandwidth, "version": f"torch {torch.__version__}"}


def run_transformers(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    model = transformers.MiniMaxForCausalLM.from_pretrained(job["folder"], dtype=job["dtype"]).eval()
    vocabulary, steps = model.config.vocab_size, job["steps"]

    def read(setting: tuple[str, str], ids: Sequence[int], keep: int) -> Any:
        model.set_experts_implementation(setting[0])
        out = model(torch.tensor([ids]), past_key_values=MiniMaxCache(), use_cache=True, logits_to_keep=keep)
        model.set_experts_implementation(setting[1])  # batched_mm copies weights for each token: decode only
        return out

    def more(out: Any, ids: Any, at: int) -> Any:
        places = torch.full_like(ids, at)  # its own count of positions begins again where layer 0 is linear
        return model(ids, past_key_values=out.past_key_values, use_cache=True, position_ids=places)

    def write(out: Any, at: int, steps: int) -> float:
        began = time.perf_counter()
        for step in range(steps):
            out = more(out, out.logits[:, -1:].argmax(-1), at + step)
        return time.perf_counter() - began

    def run(setting: tuple[str, str], length: int) -> tuple[float, float]:
        began = time.perf_counter()
        out = read(setting, prompt(vocabulary, length, 1), 1)
        return time.perf_counter() - began, write(out, length, steps)

    def side_by_side(setting: tuple[str, str]) -> float:
        common = SIDE_PAST - OWN
        out = read(setting, prompt(vocabulary, common, 2), 1)
        cache = out.past_key_values
        cache.linear_cache = [each.repeat_interleave(TOGETHER, 0) if len(each) else each for each in cache.linear_cache]
        for layer in cache.layers:
            layer.batch_repeat_interleave(TOGETHER)
        own = torch.tensor([prompt(vocabulary, OWN, 2 + seed) for seed in range(TOGETHER)])
        for at in range(OWN):
            out = more(out, own[:, at : at + 1], common + at)
        return write(out, SIDE_PAST, job["side_steps"])

    gaps = {}
    with torch.inference_mode():
        figures, chosen = alone(job, EXPERTS, run)
        cell, best = f"{TOGETHER} at once after {SIDE_PAST}", []
        for setting in EXPERTS[:2]:  # not the one that copies an expert's weights for each of its tokens
            seconds = statistics.median(several(partial(side_by_side, setting), job["repeats"]))
            best.append((TOGETHER * job["side_steps"] / seconds, str(setting)))
        figures[cell], chosen[cell] = max(best)
        ids, mine = prompt(vocabulary, ASKED, 0), np.load(job["logits"])
        for setting in EXPERTS:
            out = read(setting, ids[:-SINGLE], 0)
            logits = [out.logits[0].float()]
            for at in range(ASKED - SINGLE, ASKED):
                out = more(out, torch.tensor([[ids[at]]]), at)
                logits.append(out.logits[0].float())
            gaps[str(setting)] = gap(mine, torch.cat(logits).numpy())
    return {"figures": figures, "gaps": gaps, "chosen": chosen, "version": transformers.__version__}


def run_llama(job: dict[str, Any]) -> dict[str, Any]:
    import llama_cpp
    from llama_cpp import llama_cpp as low

    cores, steps = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), job["steps"]
    low.llama_backend_init()
    model = low.llama_model_load_from_file(job["file"].encode(), low.llama_model_default_params())
    vocabulary = low.llama_vocab_n_tokens(low.llama_model_get_vocab(model))

    def context(keys: str, flash: int, tokens: int, sequences: int = 1, unified: bool = False) -> Any:
        params = low.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = tokens, 2048, 512  # 2048 at once was slower
        params.n_threads = params.n_threads_batch = cores
        params.type_k = params.type_v = KEYS[keys]
        params.flash_attn_type, params.n_seq_max, params.kv_unified = flash, sequences, unified
        made = low.llama_init_from_model(model, params)
        if not made:
            raise SystemExit(f"llama.cpp cannot run with keys in {keys} and flash attention {flash}")
        return made

    def decode(into: Any, ids: Sequence[int], at: int, sequences: Sequence[int], wanted: Sequence[int]) -> None:
        """Runs tokens: those of one sequence from place `at` on, or else one of each sequence there."""
        batch = low.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for row, token in enumerate(ids):
            batch.token[row], batch.n_seq_id[row], batch.logits[row] = token, 1, wanted[row]
            batch.pos[row] = at if len(sequences) > 1 else at + row
            batch.seq_id[row][0] = sequences[row] if len(sequences) > 1 else sequences[0]
        code = low.llama_decode(into, batch)
        low.llama_batch_free(batch)
        if code:
            raise SystemExit(f"llama_decode gave {code}")

    def logits(of: Any, rows: int) -> Any:
        return np.ctypeslib.as_array(low.llama_get_logits(of), (rows, vocabulary))

    def read(into: Any, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), 2048):
            part = ids[start : start + 2048]
            decode(into, part, start, [0], [start + row == len(ids) - 1 for row in range(len(part))])

    def write(into: Any, at: int, rows: int, steps: int) -> float:
        began = time.perf_counter()
        for step in range(steps):
            ids = logits(into, rows).argmax(1).tolist()
            decode(into, ids, at + step, range(rows), [1] * rows)
        return time.perf_counter() - began

    def run(setting: tuple[str, int], length: int) -> tuple[float, float]:
        used = context(*setting, length + steps)
        decode(used, [1, 2], 0, [0], [0, 1])  # its buffers are written for the first time
        low.llama_memory_clear(low.llama_get_memory(used), True)
        began = time.perf_counter()
        read(used, prompt(vocabulary, length, 1))
        low.llama_synchronize(used)
        seconds = time.perf_counter() - began
        wrote = write(used, length, 1, steps)
        low.llama_free(used)
        return seconds, wrote

    def side_by_side(setting: tuple[str, int], unified: bool) -> float:
        used = context(*setting, TOGETHER * (SIDE_PAST + 256), TOGETHER, unified)
        common = SIDE_PAST - OWN
        read(used, prompt(vocabulary, common, 2))
        for number in range(1, TOGETHER):
            low.llama_memory_seq_cp(low.llama_get_memory(used), 0, number, -1, -1)
        own = [prompt(vocabulary, OWN, 2 + seed) for seed in range(TOGETHER)]
        for at in range(OWN):
            decode(used, [ids[at] for ids in own], common + at, range(TOGETHER), [1] * TOGETHER)
        seconds = write(used, SIDE_PAST, TOGETHER, job["side_steps"])
        low.llama_free(used)
        return seconds

    def says(ids: Sequence[int], setting: tuple[str, int]) -> Any:
        used = context(*setting, 2048)
        decode(used, ids[:-SINGLE], 0, [0], [1] * (ASKED - SINGLE))
        told = [logits(used, ASKED - SINGLE).copy()]
        for at in range(ASKED - SINGLE, ASKED):
            decode(used, [ids[at]], at, [0], [1])
            told.append(logits(used, 1).copy())
        low.llama_free(used)
        return np.concatenate(told)

    settings = list(product(["f16"] if job["weights"] == "8 bit" else ["f16", job["weights"]], (0, 1)))
    figures, chosen = alone(job, settings, run)
    cell, best = f"{TOGETHER} at once after {SIDE_PAST}", []
    [fastest] = [each for each in settings if str(each) == chosen[f"decode after {SIDE_PAST}"]]
    for unified in (False, True):
        seconds = statistics.median(several(partial(side_by_side, fastest, unified), job["repeats"]))
        best.append((TOGETHER * job["side_steps"] / seconds, f"{fastest}, unified {unified}"))
    figures[cell], chosen[cell] = max(best)
    ids, mine = prompt(vocabulary, ASKED, 0), np.load(job["logits"])
    gaps = {str(setting): gap(mine, says(ids, setting)) for setting in settings}
    return {"figures": figures, "gaps": gaps, "chosen": chosen, "version": llama_cpp.__version__}


def write_model(shape: dict[str, Any], folder: Path) -> None:
    import torch
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    from minimax_m1 import MiniMaxM1Tokenizer

    config = MiniMaxConfig(
        **shape["config"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        head_dim=64,
        num_experts_per_tok=2,
        layer_types=["full_attention" if layer % 8 == 7 else "linear_attention" for layer in range(shape["layers"])],
        full_attn_alpha_factor=2.0,
        linear_attn_alpha_factor=2.0,
        mlp_alpha_factor=2.0,
        max_position_embeddings=65536,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, shape["weights"][0]))
    model = MiniMaxForCausalLM(config)
    torch.set_default_dtype(before)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=shape["std"])
    model.save_pretrained(folder)
    MiniMaxM1Tokenizer.train(["hello there, how are you"] * 3, vocab_size=300).save_pretrained(folder)


ENGINES = {"ours": run_ours, "transformers": run_transformers, "llama.cpp": run_llama}


def in_a_process(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """Runs one engine with one kind of weights; what it gives, or the end of everything with its last words."""
    print(f"{job['engine']}, {job['weights']} ...", file=sys.stderr, flush=True)
    done = subprocess.run([python, __file__, "--job", json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job['engine']} failed ({job['weights']}):\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    agree(job["engine"], job["weights"], result.get("gaps", {}), job["bound"])
    for part in ("figures", "gb_per_second"):
        result[part] = {cell: round(value, 1) for cell, value in result.get(part, {}).items()}
    return result


def compare(name: str, llama_python: str | None, work: Path, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Every engine with every kind of weights; the whole record, ready for JSON."""
    from minimax_m1.cli.bench import rates
    from minimax_m1.export.gguf import export_gguf

    shape = SHAPES[name]
    if not (folder / "tokenizer.json").exists():
        write_model(shape, folder)
    machine = rates(2**28, 2048, 5)
    results: dict[str, dict[str, Any]] = {}
    for weights in (*shape["weights"], "8 bit"):
        natural = shape["weights"][0] if weights == "8 bit" else weights
        job |= {
            "weights": weights,
            "bound": shape["bounds"][weights],
            "dtype": natural,
            "folder": str(folder),
            "logits": str(work / "ours.npy"),
        }
        told = results[weights] = {"ours": in_a_process(sys.executable, job | {"engine": "ours"})}
        if weights != "8 bit":
            told["transformers"] = in_a_process(sys.executable, job | {"engine": "transformers"})
        if llama_python is not None:
            done = export_gguf(folder, work / f"{GGUF[weights]}.gguf", type=GGUF[weights], progress=False)  # type: ignore[arg-type]
            told["llama.cpp"] = in_a_process(llama_python, job | {"engine": "llama.cpp", "file": str(done.file)})
            done.file.unlink()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    return {
        "benchmark": "peers",
        "shape": name,
        "model": shape["says"],
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "kind": platform.machine(), **machine},
        "commit": commit.stdout.strip(),
        "repeats": job["repeats"],
        "steps": job["steps"],
        "versions": {engine: told["version"] for engine, told in results[shape["weights"][0]].items()},
        "results": results,
    }


def best(record: dict[str, Any], eight: bool) -> dict[str, dict[str, tuple[float, str]]]:
    """For each line of a table and each engine, its better figure and the weights that gave it."""
    table: dict[str, dict[str, tuple[float, str]]] = {}
    for weights, told in record["results"].items():
        for engine, result in told.items() if (weights == "8 bit") == eight else ():
            for cell, figure in result["figures"].items():
                line = table.setdefault(cell, {})
                better = min if cell.startswith("peak") else max
                line[engine] = better(line.get(engine, (figure, weights)), (figure, weights))
    for cell, line in table.items():  # no other engine has a bare model; it stands beside what they do have
        if cell.startswith("bare "):
            line.update({k: v for k, v in table[cell.removeprefix("bare ")].items() if k != "ours"})
    return {cell: table[cell] for cell in sorted(table, key=_order)}


def _order(cell: str) -> tuple[int, int, bool]:
    kinds = ("prefill", "decode", str(TOGETHER), "peak")
    words = cell.removeprefix("bare ").split()
    return kinds.index(words[0]), int(words[-1]) if words[-1].isdigit() else 0, cell.startswith("bare ")


def rows(record: dict[str, Any], eight: bool) -> list[list[str]]:
    """A table's lines, the heading first: figures with their weights, ratio to the better peer, share of the memory."""
    table = best(record, eight)
    engines = list(dict.fromkeys(engine for line in table.values() for engine in line))
    made = [["tokens/s", *engines, "ratio", "of the memory's rate"]]
    marks = {"float32": " f32", "bfloat16": " bf16", "8 bit": ""}
    for cell, line in table.items():
        figure, weights = line["ours"]
        others = [each for engine, (each, _) in line.items() if engine != "ours"]
        ratio = (min(others) / figure if cell.startswith("peak") else figure / max(others)) if others else None
        moved = record["results"][weights]["ours"]["gb_per_second"].get(cell)
        share = "" if moved is None else f"{moved / record['machine']['memory_gb_per_second']:.0%}"
        told = [f"{line[engine][0]:,.0f}{marks[line[engine][1]]}" if engine in line else "" for engine in engines]
        made.append(
            [cell.replace("bare decode", "the bare model's"), *told, "" if ratio is None else f"{ratio:.2f}", share]
        )
    return made


def show(record: dict[str, Any], markdown: bool) -> None:
    machine = record["machine"]
    print(
        f"{record['model']}\nthis machine: {machine['threads']} threads, reads {machine['memory_gb_per_second']:g} "
        f"GB/s, multiplies at {machine['float32_gflops']:g} GFLOP/s in float32 and {machine['bfloat16_gflops']:g} in "
        "bfloat16; a ratio above 1, to the better peer, means that ours is better"
    )
    if "llama.cpp" not in record["versions"]:
        print("llama.cpp is left out: --llama-python names an environment that has it")
    for eight in (False, True):
        lines = rows(record, eight)
        print("\nint8 (ours) and q8_0 (llama.cpp)" if eight else "\n16 bits or more, the better for each figure")
        for number, line in enumerate(lines):
            if markdown:
                won = number > 0 and line[-2] != "" and float(line[-2]) >= 1
                bold = [*line[:-2], f"**{line[-2]}**" if won else line[-2], line[-1]]
                print("| " + " | ".join(bold) + " |" + ("\n|" + "---|" * len(line) if number == 0 else ""))
            else:
                print(f"{line[0]:32}" + "".join(f"{cell:>16}" for cell in line[1:-2]) + f"{line[-2]:>8}{line[-1]:>22}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument(
        "--llama-python", metavar="PATH", help="the interpreter of an environment with llama-cpp-python"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="512 tokens alone, one short run a figure")
    parser.add_argument("--markdown", action="store_true", help="print tables for the README")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(json.dumps(ENGINES[job["engine"]](job)))
        return
    shape = SHAPES[options.shape]
    job = {"lengths": shape["lengths"], "trial": shape["trial"], "repeats": options.repeats}
    job |= {"steps": 64, "side_steps": 32}
    if options.quick:
        job |= {"lengths": shape["lengths"][:1], "repeats": 1, "steps": 8, "side_steps": 4}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        record = compare(options.shape, options.llama_python, work, options.folder or work / "model", job)
    show(record, options.markdown)
    print(json.dumps(record))
    if options.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as results:
            results.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
