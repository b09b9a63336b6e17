"""CISPO beside TRL's GRPOTrainer(loss_type="cispo"): the same start, prompts, reward, groups, lengths and updates.

    python benchmarks/bench_rl.py --peer-python PEER/bin/python [--seeds 3] [--start FOLDER] [--record] [--markdown]

PEER is another environment: `python -m venv PEER && PEER/bin/pip install torch==2.13.0`, and then `trl==1.16.0 datasets
accelerate transformers==5.23.0`. Each run has a process of its own with 2 threads and float32 throughout: batches of 16
prompts with 8 answers of at most 64 tokens, then 16 updates of AdamW. Off on both sides: KL, length penalty, warm-up,
the routers' balance loss; on ours also dynamic sampling. Every prompt is asked once.

The start is trained here for some minutes, or kept in --start. It has nano's width, but its first layer
is the softmax one and the whole head is rotated: transformers' MiniMax does not continue texts or rotate a part rightly
otherwise. It adds two numbers, but answers many questions without a thought, and wrongly: it is to learn to think.
Before any figure, greedy answers of both must be equal and log-probs within 2e-4 nats.

A step is a rollout and its updates: the median of the batches after the first, where rewards are 0 and 1 in turn, so
that every answer is learned on both sides. On the way to the goal ours leaves out groups whose answers are all worth
the same, and makes no more updates than it has others; TRL learns them too. `--record` appends to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from bench_peers import peak_memory

HERE = Path(__file__).parent
THREADS = 2
SHAPE = {"attn_type_list": [1, 0, 0, 0, 0, 0, 0, 0], "rotary_dim": 32}  # else as the preset nano
TOKENS, DIGITS, HASTY = 1_600_000, 2, 16_000  # what the start reads, the operands' digits, answers without a thought
STEP = {"prompts": 16, "group": 8, "updates": 16, "tokens": 64, "rate": 2e-5}  # of a batch; rate: of learning
GOAL, WINDOW = 0.9, 3  # the mean reward of so many batches in a row
CHECKED = 32  # prompts whose answers are compared
BOUND = 2e-4  # nats, between log-probs
TAKEN = ("batches", "prompts", "group", "updates", "seed")  # by our recipe, out of a job
# Every way that an engine is run, for one batch after one that warms up; the fastest goes on.
SETTINGS: dict[str, dict[str, Sequence[Any]]] = {
    "ours": {"max_num_seqs": (128, 512), "batch_tokens": (4096, 16384)},
    "TRL": {"attention": ("sdpa", "eager"), "experts": ("grouped_mm", "batched_mm", "eager")},
}


def make_start(folder: Path) -> None:
    """The model that both sides start from, in our form and with a configuration that transformers reads."""
    from minimax_m1.tasks.addition import exchange, operand

    shape = [f"model.{key}={json.dumps(value)}" for key, value in SHAPE.items()]
    data = ['shares={"addition":0.7,"data":0.3}', f"max_difficulty={DIGITS}", f"tokens={TOKENS}", "batch_tokens=2048"]
    settings = [*shape, *data, "length=1024", "max_position=0", "sample_minutes=0", "warmup_steps=50"]
    words = [word for setting in settings for word in ("--set", setting)]
    rng = random.Random("bench_rl without a thought")
    print("training the start ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        with (hasty := Path(scratch) / "hasty.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(HASTY):
                asked, said = exchange(operand(rng, DIGITS), operand(rng, DIGITS), rng)
                wrong = {"role": "assistant", "content": str(int(said["content"]) + rng.randint(1, 9))}
                file.write(json.dumps({"messages": [asked, wrong]}) + "\n")
        command = [sys.executable, "-m", "minimax_m1", "train", "pretrain", "nano", "--data", str(hasty)]
        command += ["--out", scratch + "/run", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the start could not be trained:\n{done.stderr[-3000:]}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(scratch) / "run" / "model", folder)
    keys = json.loads((folder / "config.json").read_text("utf-8"))
    keys["router_aux_loss_coef"] = 0.0
    (folder / "config.json").write_text(json.dumps(keys, indent=2), "utf-8")


def peer_folder(start: Path, folder: Path) -> None:
    """The start with transformers' names in its configuration; weights and tokenizer are links."""
    keys = json.loads((start / "config.json").read_text("utf-8"))
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok", "rms_norm_eps"),
        *("max_position_embeddings", "bos_token_id", "eos_token_id", "router_aux_loss_coef", "tie_word_embeddings"),
    )
    told: dict[str, Any] = {key: keys[key] for key in same}
    told |= {"architectures": ["MiniMaxForCausalLM"], "model_type": "minimax", "dtype": "float32"}
    told["layer_types"] = ["full_attention" if kind else "linear_attention" for kind in keys["attn_type_list"]]
    told["rope_parameters"] = {"rope_type": "default", "rope_theta": keys["rope_theta"]}
    names = (("full_attn", "full_attention"), ("linear_attn", "linear_attention"), ("mlp", "mlp"))
    for (theirs, ours), factor in product(names, ("alpha", "beta")):
        told[f"{theirs}_{factor}_factor"] = keys[f"layernorm_{ours}_{factor}"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(told, indent=2), "utf-8")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to((start / name).resolve())


def make_rows(start: Path, count: int) -> list[dict[str, Any]]:
    """Prompts, all different, with their answers and their ids."""
    from minimax_m1 import MiniMaxM1Tokenizer
    from minimax_m1.tasks.example import draw
    from minimax_m1.tasks.families import FAMILIES
    from minimax_m1.text.chat import encode_chat

    tokenizer, rng = MiniMaxM1Tokenizer.from_pretrained(start), random.Random("bench_rl")
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        example = draw(FAMILIES["addition"], rng, DIGITS, "train")
        turn = example.turns[0]
        prompt = list(example.messages[:turn])
        row = {"prompt": prompt, "answer": example.messages[turn]["content"], "ids": encode_chat(tokenizer, prompt)}
        rows[json.dumps(prompt)] = row
    return list(rows.values())


def check_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Greedy answers of the engine, with their ends, and the log-probs that the trainer gives them."""
    import torch

    from minimax_m1 import LLM, MiniMaxM1ForCausalLM, SamplingParams
    from minimax_m1.train.rl.rollout import RolloutBatch
    from minimax_m1.train.rl.update import score

    llm = LLM(job["folder"], dtype="float32")
    prompts = [row["ids"] for row in job["rows"]]
    model = MiniMaxM1ForCausalLM.from_pretrained(job["folder"], dtype="float32", progress=False).train()
    end, answers = model.config.eos_token_id or 0, []
    for out in llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=job["tokens"])):
        said = list(out.outputs[0].token_ids)
        answers.append(said if len(said) == job["tokens"] or said[-1] == end else [*said, end])
    own = [[False] * len(prompt) + [True] * len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = torch.tensor([token for pair in zip(prompts, answers, strict=True) for text in pair for token in text])
    rollouts = RolloutBatch(
        ids=ids,
        own=torch.tensor([each for row in own for each in row]),
        logprobs=torch.zeros(len(ids)),
        lengths=torch.tensor([len(row) for row in own]),
        groups=torch.arange(len(own)),
        advantages=torch.zeros(len(own)),
    )
    with torch.no_grad():
        scores, _, _ = score(model, rollouts)
    logprobs = [part.tolist() for part in scores.logprob.split([len(answer) for answer in answers])]
    return {"answers": answers, "logprobs": logprobs}


def learn_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Batches until one of the job's limits, as peer_trl.py's `learn`."""
    import torch

    from minimax_m1.train.rl.policy_loss import PolicyLoss
    from minimax_m1.train.rl.recipe import RLRecipe
    from minimax_m1.train.rl.run import RLRun

    data = Path(job["scratch"]) / "prompts.jsonl"
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in job["rows"]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    taken: dict[str, Any] = {key: job[key] for key in (*TAKEN, *SETTINGS["ours"])}
    off: dict[str, Any] = {"refills": 0, "overlong_share": 0.0, "repetition_window": 0, "easy": 1.0, "warmup_steps": 0}
    recipe = RLRecipe(
        name="bench",
        start=job["folder"],
        shares={"data": 1.0},
        data=(str(data),),
        rewards=(f"{HERE / 'peer_trl.py'}:{job['reward']}",),
        output_lengths=(job["tokens"],),
        context=256,
        loss=PolicyLoss(is_weight_max=5.0, loss_norm="batch_token"),
        learning_rate=job["rate"],
        final_learning_rate=job["rate"],
        **taken,
        **off,
    )
    batches: list[dict[str, float]] = []
    rolled = 0.0

    class Timed(RLRun):
        def _roll(self) -> Any:
            nonlocal rolled
            began = time.perf_counter()
            out = super()._roll()
            rolled = time.perf_counter() - began
            return out

    run = Timed.begin(recipe)
    last = began = time.perf_counter()
    figures: dict[str, float] = {}
    while not ended(batches, job, time.perf_counter() - began):
        figures |= run.train_step()
        if run.done == run.batch:
            now = time.perf_counter()
            told = {"seconds": now - last, "rollout": rolled, "update": now - last - rolled}
            told |= {"tokens": figures["length"], "samples": figures["groups"] * job["group"]}
            told |= {"learned": figures["groups_kept"] * job["group"], "reward": figures["reward"]}
            batches.append({**told, "agreement": figures.get("agreement", 1.0)})
            print(json.dumps({"batch": len(batches), **batches[-1]}), file=sys.stderr, flush=True)
            last = now
    run.close()
    return {"batches": batches, "peak_mb": round(peak_memory() / 2**20, 1), "versions": {"torch": torch.__version__}}


def ended(batches: Sequence[dict[str, float]], job: dict[str, Any], seconds: float) -> bool:
    """Whether the goal is reached, or a limit."""
    return reached(batches, job) or len(batches) == job["batches"] or seconds > job["most_seconds"]


def reached(batches: Sequence[dict[str, float]], job: dict[str, Any]) -> bool:
    recent = [each["reward"] for each in batches[-job["window"] :]]
    return len(recent) == job["window"] and statistics.fmean(recent) >= float(job["goal"])


def in_a_process(python: str, script: str, job: dict[str, Any]) -> dict[str, Any]:
    """The result of one job, or the end of everything with its last words."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps({**job, "scratch": scratch}), "utf-8")
        command = [python, str(HERE / script), *(["--job"] if script == Path(__file__).name else []), str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class Bench:
    """Both engines on one start; every job of either is run by `run`."""

    def __init__(self, peer_python: str, start: Path, theirs: Path, batches: int) -> None:
        self._commands = {"ours": (sys.executable, Path(__file__).name), "TRL": (peer_python, "peer_trl.py")}
        self._folders = {"ours": start, "TRL": theirs}
        self._rows = make_rows(start, int(STEP["prompts"]) * max(batches, 2 * CHECKED))
        self.chosen = {engine: {key: ways[0] for key, ways in keys.items()} for engine, keys in SETTINGS.items()}

    def run(self, engine: str, kind: str, **more: Any) -> dict[str, Any]:
        print(engine, kind, *more.values() if kind == "learn" else (), "...", file=sys.stderr, flush=True)
        common = {"kind": kind, "folder": str(self._folders[engine]), "rows": self._rows, "threads": THREADS}
        return in_a_process(*self._commands[engine], {**common, **STEP, **self.chosen[engine], **more})

    def check(self) -> dict[str, float]:
        """What was compared; ends everything where the two do not say the same."""
        rows = self._rows[:CHECKED]
        mine = self.run("ours", "check", rows=rows)
        other = self.run("TRL", "check", rows=rows, answers=mine["answers"])
        if mine["answers"] != other["answers"]:
            differ = sum(a != b for a, b in zip(mine["answers"], other["answers"], strict=True))
            raise SystemExit(f"{differ} of {CHECKED} greedy answers differ: no figures")
        flat = [[each for answer in told["logprobs"] for each in answer] for told in (mine, other)]
        gap = max(abs(a - b) for a, b in zip(*flat, strict=True))
        if not gap <= BOUND:
            raise SystemExit(f"log-probs differ by up to {gap:.2g} nats, more than {BOUND:g}: no figures")
        return {"answers": CHECKED, "tokens": len(flat[0]), "logprob_gap": gap}

    def step(self, engine: str, batches: int) -> dict[str, Any]:
        """Medians of the batches after the first, in the fastest way; `tried` are seconds a step in each way."""
        tried: dict[str, float] = {}
        best = math.inf
        still = {"reward": "alternate", "rate": 1e-7, "seed": 0, "window": 1, "goal": 2.0, "most_seconds": 600}
        for values in product(*SETTINGS[engine].values()):
            way = dict(zip(SETTINGS[engine], values, strict=True))
            seconds = self.run(engine, "learn", **still, **way, batches=2)["batches"][1]["seconds"]
            tried[" ".join(f"{key}={value}" for key, value in way.items())] = round(seconds, 3)
            if seconds < best:
                best, self.chosen[engine] = seconds, way
        done = self.run(engine, "learn", **still, batches=1 + batches)
        told = {key: statistics.median(each[key] for each in done["batches"][1:]) for key in done["batches"][0]}
        told["samples_per_second"] = told["samples"] / told["seconds"]
        each = [round(batch["seconds"], 3) for batch in done["batches"]]
        return {**told, "peak_mb": done["peak_mb"], "tried": tried, "each": each, "versions": done["versions"]}

    def learn(self, engine: str, seed: int, batches: int, most_seconds: float) -> dict[str, Any]:
        """Seconds and batches to the goal; None where it was not reached."""
        limits = {"window": WINDOW, "goal": GOAL, "batches": batches, "most_seconds": most_seconds}
        done = self.run(engine, "learn", reward="reward", seed=seed, **limits)
        there = reached(done["batches"], limits)
        rewards = [round(each["reward"], 4) for each in done["batches"]]
        seconds = sum(each["seconds"] for each in done["batches"])
        return {"seed": seed, "reached": there, "seconds": seconds, "batches": len(rewards), "rewards": rewards}


def lines(record: dict[str, Any]) -> list[list[str]]:
    """The table, its heading first; a ratio above 1 means that ours is better."""
    ours, theirs = (record["step"][engine] for engine in SETTINGS)
    made = [["", *SETTINGS, "ratio"]]
    for name, key, digits in (
        ("one step, s", "seconds", 2),
        ("its rollout, s", "rollout", 2),
        (f"its {STEP['updates']} updates, s", "update", 2),
        ("samples/s", "samples_per_second", 1),
        ("tokens in an answer", "tokens", 1),
        ("peak memory, MB", "peak_mb", 0),
    ):
        pair = ours[key], theirs[key]
        better = pair[0] / pair[1] if key == "samples_per_second" else pair[1] / pair[0]
        ratio = "" if key == "tokens" else f"{better:.2f}"
        made.append([name, *(f"{value:,.{digits}f}" for value in pair), ratio])
    if runs := record["learn"]:
        for name, key in ((f"s to reward {GOAL:g}", "seconds"), (f"steps to reward {GOAL:g}", "batches")):
            middle = {engine: middle_of(told, key) for engine, told in runs.items()}
            cells = [told_of(told, key, middle[engine]) for engine, told in runs.items()]
            one = math.isfinite(middle["ours"]) or math.isfinite(middle["TRL"])
            made.append([name, *cells, f"{middle['TRL'] / middle['ours']:.2f}" if one else ""])
    return made


def middle_of(runs: Sequence[dict[str, Any]], key: str) -> float:
    """The median over seeds; a run that did not reach the goal counts as one that never does."""
    return statistics.median(run[key] if run["reached"] else math.inf for run in runs)


def told_of(runs: Sequence[dict[str, Any]], key: str, middle: float) -> str:
    each = ", ".join(f"{run[key]:,.0f}" + ("" if run["reached"] else " not reached") for run in runs)
    return f"{middle:,.0f} ({each})" if math.isfinite(middle) else f"not reached ({each})"


def show(record: dict[str, Any], markdown: bool) -> None:
    made = lines(record)
    for number, line in enumerate(made):
        if markdown:
            print("| " + " | ".join(line) + " |" + ("\n|" + "---|" * len(line) if number == 0 else ""))
        else:
            print(f"{line[0]:24}" + "".join(f"{cell:>28}" for cell in line[1:3]) + f"{line[3]:>8}")
    lost = [line[0] for line in made[1:] if line[3] and float(line[3]) < 1]
    checked = record["checked"]
    print(
        f"\n{checked['answers']} greedy answers are equal, {checked['tokens']:,} log-probs within "
        f"{checked['logprob_gap']:.1g} nats; agreement of our sampler and trainer "
        f"{record['step']['ours']['agreement']:.6f}. We lose at: {'; '.join(lost) or 'none of these lines'}"
    )
    for engine, told in record["step"].items():
        ways = "; ".join(f"{way}: {seconds:g} s" for way, seconds in told["tried"].items())
        print(f"{engine} tried {ways}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", metavar="PATH", help="the interpreter of an environment with TRL")
    parser.add_argument("--start", type=Path, help="keeps the trained start here, or takes it from here")
    parser.add_argument("--batches", type=int, default=5, help="timed, after one that warms up")
    parser.add_argument("--seeds", type=int, default=3, help=f"runs to reward {GOAL:g}; 0: none")
    parser.add_argument("--most", type=int, default=80, help="batches of such a run")
    parser.add_argument("--most-seconds", type=float, default=600.0, help="of such a run")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    parser.add_argument("--job", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        import torch

        job = json.loads(Path(options.job).read_text("utf-8"))
        torch.set_num_threads(job["threads"])
        print(json.dumps({"check": check_ours, "learn": learn_ours}[job["kind"]](job)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment with TRL")
    from minimax_m1.cli.bench import rates

    machine = rates(2**28, 2048, 5)
    with tempfile.TemporaryDirectory() as scratch:
        start = options.start or Path(scratch) / "start"
        if not (start / "config.json").exists():
            make_start(start)
        peer_folder(start, Path(scratch) / "theirs")
        bench = Bench(options.peer_python, start, Path(scratch) / "theirs", options.most)
        checked = bench.check()
        step = {engine: bench.step(engine, options.batches) for engine in SETTINGS}
        learn: dict[str, list[dict[str, Any]]] = {engine: [] for engine in SETTINGS if options.seeds}
        for seed, engine in product(range(options.seeds), SETTINGS):
            learn[engine].append(bench.learn(engine, seed, options.most, options.most_seconds))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    record = {
        "benchmark": "rl",
        "model": "4.5M parameters, 8 experts of which 2 work, 7 lightning layers and 1 softmax",
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "kind": platform.machine(), **machine},
        "commit": commit.stdout.strip(),
        "threads": THREADS,
        "batch": STEP,
        "checked": checked,
        "step": step,
        "learn": learn,
    }
    show(record, options.markdown)
    print(json.dumps(record))
    if options.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as results:
            results.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
