"""What recall owes to positions and to the pattern of layers: small models taught alike, then asked at any length.

    python benchmarks/compare_recall.py positions|patterns --out FOLDER [--tokens 2200000] [--only NAME ...]

Multi-query associative recall (MQAR, arXiv 2312.04927) on bare tokens: facts, a key and a value, lie at random places
among filler, then some are asked for again and only the value carries loss; chance is 1 in 16.
positions: half of each head rotated with positions that skip ahead (PoSE, the default of this package), without skips,
and no rotation; each also with `softmax_log_n` when it answers. patterns: how many lightning layers come before the one
softmax layer, or none at all.

All models of a run read the same texts. FOLDER gets results.json and chart.png; tables go to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minimax_m1 import presets
from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.train.document import Document, skipped_positions
from minimax_m1.train.optimizer import adamw
from minimax_m1.train.pack import pack
from minimax_m1.train.step import train_step

KEYS, FIRST_KEYS, VALUES, FILLER = 256, 8, 16, 48  # ids of each kind; texts have `FIRST_KEYS` at first, then all
QUESTIONS, FACT = 48, 2  # questions to a text at most; tokens of a fact and of a question with its answer
SHORTEST, FIRST_LONGEST, LONGEST = 16, 24, 1900  # tokens of a training text before its questions
HOLD, GROWN = 0.38, 0.65  # shares of the run: texts stay short until the first, have their full length from the second
TRAINED = 2048  # about the longest training text with its questions, for the scale of queries
MAX_POSITION = 1_048_576
BATCH, RATE, WARMUP, FALL_FROM, CHUNK = 2048, 2e-3, 50, 0.7, 8192
# Asked afterwards: tokens before the questions, facts.
GROWING = {1_900: 8, 8_000: 32, 32_000: 96, 128_000: 256}
ASKED = {
    "positions": tuple((length, facts) for length in GROWING for facts in sorted({8, 64, GROWING[length]})),
    "patterns": tuple((1_900, facts) for facts in (8, 32, 128, 256)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of a comparison: its layers, the rotated part of a head of 16, how far positions skip."""

    says: str
    layers: tuple[int, ...] = (LIGHTNING, SOFTMAX)
    rotary_dim: int = 8
    max_position: int = MAX_POSITION

    def config(self) -> MiniMaxM1Config:
        """nano's hidden size and heads, with fewer and smaller experts."""
        alpha = (2 * len(self.layers)) ** 0.25
        return presets.nano().replace(
            vocab_size=KEYS + VALUES + FILLER,
            num_hidden_layers=len(self.layers),
            attn_type_list=self.layers,
            num_key_value_heads=8,
            head_dim=16,
            rotary_dim=self.rotary_dim,
            num_local_experts=4,
            intermediate_size=64,
            layernorm_full_attention_alpha=alpha,
            layernorm_linear_attention_alpha=alpha,
            layernorm_mlp_alpha=alpha,
            initializer_range=0.2,
        )


VARIANTS = {
    "positions": {
        "half-skips": Variant(says="half rotated, positions skip"),
        "half-plain": Variant(says="half rotated, plain positions", max_position=0),
        "none": Variant(says="no rotation", rotary_dim=0),
    },
    "patterns": {
        "none": Variant(says="no softmax, 2 layers", layers=(LIGHTNING, LIGHTNING)),
        "1:1": Variant(says="softmax last of 2 layers"),
        "1:0": Variant(says="1:0, 8 layers", layers=(LIGHTNING,) * 8),
        "3:1": Variant(says="3:1, 8 layers", layers=(LIGHTNING, LIGHTNING, LIGHTNING, SOFTMAX) * 2),
        "7:1": Variant(says="7:1, 8 layers", layers=(LIGHTNING,) * 7 + (SOFTMAX,)),
    },
}


def text(rng: np.random.Generator, length: int, facts: int, keys: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A text of `length` tokens with so many facts, and `count` questions with their answers, each `FACT` tokens."""
    told = np.stack((rng.choice(keys, facts, replace=False), KEYS + rng.integers(0, VALUES, facts)), 1)
    ids = KEYS + VALUES + rng.integers(0, FILLER, length)
    starts = np.sort(rng.choice(length - (FACT - 1) * facts, facts, replace=False)) + np.arange(facts) * (FACT - 1)
    for part in range(FACT):
        ids[starts + part] = told[:, part]
    asked = np.concatenate([rng.permutation(facts) for _ in range(-(-count // facts))])[:count]
    return ids, told[asked].reshape(-1)


def document(rng: np.random.Generator, shift: random.Random, share: float, room: int, max_position: int) -> Document:
    """One training text when `share` of the run is done; positions are drawn apart, so all variants read the same."""
    grown = min(1.0, max(0.0, (share - HOLD) / (GROWN - HOLD)))
    longest = FIRST_LONGEST * (LONGEST / FIRST_LONGEST) ** grown
    keys = round(FIRST_KEYS * (KEYS / FIRST_KEYS) ** min(1.0, 2 * grown))
    length = min(int(SHORTEST * (longest / SHORTEST) ** rng.random()), max(SHORTEST, room))
    most = min(length // FACT - 1, keys)
    facts = int(2 * (most / 2) ** rng.random())
    ids, questions = text(rng, length, facts, keys, min(QUESTIONS, 6 * facts))
    said = [0] * length + [0, 1] * (len(questions) // FACT)
    positions = skipped_positions(len(said), max_position, shift)
    return Document(ids=[*ids.tolist(), *questions.tolist()], said=said, positions=positions, place="recall")


def train(variant: Variant, total: int, seed: int) -> tuple[MiniMaxM1ForCausalLM, dict[str, Any]]:
    """The trained model, and what the run was: time, tokens, accuracy every 50 steps."""
    torch.manual_seed(seed)
    model = MiniMaxM1ForCausalLM(variant.config())
    optimizer = adamw(model, rate=RATE, betas=(0.9, 0.95), eps=1e-8, decay=0.1)
    rng, shift = np.random.default_rng(seed), random.Random(seed)
    tokens = step = 0
    curve: list[dict[str, float]] = []
    recent: list[dict[str, float]] = []
    started, cpu = time.perf_counter(), time.process_time()
    while tokens < total:
        documents: list[Document] = []
        size, share = 0, tokens / total
        while size < BATCH:
            documents.append(document(rng, shift, share, BATCH - size, variant.max_position))
            size += len(documents[-1].ids)
        rate = RATE * min(1.0, (step + 1) / WARMUP) * max(0.02, min(1.0, (1 - share) / (1 - FALL_FROM)))
        data = pack(documents, 0.0)
        recent.append(train_step(model, optimizer, data, rate=rate, clip_norm=1.0, report=False))
        tokens, step = tokens + size, step + 1
        if step % 50 == 0:
            means = {key: round(sum(f[key] for f in recent) / 50, 4) for key in ("answer_loss", "answer_accuracy")}
            curve.append({"step": step, "tokens": tokens, **means})
            print(f"{variant.says}: {curve[-1]}", file=sys.stderr, flush=True)
            recent = []
    told = {
        "steps": step,
        "tokens": tokens,
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 2),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "curve": curve,
    }
    return model.eval(), told


@torch.inference_mode()
def examine(experiment: str, model: MiniMaxM1ForCausalLM) -> list[dict[str, Any]]:
    """One record a length, number of facts and scale of queries: questions and how many were right.

    Only the last layer may be softmax where two scales are asked for: nothing that is kept then depends on the scale,
    so that both answer after one reading.
    """
    models = {"none": model}
    if experiment == "positions":
        assert model.config.softmax_layers == (model.config.num_hidden_layers - 1,)
        scaled = MiniMaxM1ForCausalLM(model.config.replace(softmax_log_n=TRAINED), init=False).eval()
        scaled.load_state_dict(model.state_dict())
        models["log n"] = scaled
    records = []
    for length, facts in ASKED[experiment]:
        right = dict.fromkeys(models, 0)
        asked, once = 0, min(QUESTIONS, facts)  # asked again, a fact would stand nearby with its answer
        for number in range(min(-(-320 // once), 1_200_000 // length)):
            rng = np.random.default_rng((7, length, facts, number))
            ids, questions = text(rng, length, facts, KEYS, once)
            state = model.empty_state()
            for start in range(0, length, CHUNK):
                batch = Batch.of([ids[start : start + CHUNK].tolist()], state)
                state = model.run(batch, state, logits="none").state
            asking = Batch.of([questions.tolist()], state)
            for scale, each in models.items():
                logits = each.run(asking, state, logits=[len(questions)]).logits
                assert logits is not None
                answers = logits[FACT - 2 :: FACT].argmax(-1).numpy()
                right[scale] += int((answers == questions[FACT - 1 :: FACT]).sum())
            asked += len(questions) // FACT
        for scale, count in right.items():
            records.append({"length": length, "facts": facts, "scale": scale, "asked": asked, "right": count})
    return records


def rows(results: dict[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """What a model is, the scale of its queries, its records."""
    return [
        (told["says"], scale, [each for each in told["answers"] if each["scale"] == scale])
        for told in results.values()
        for scale in dict.fromkeys(each["scale"] for each in told["answers"])
    ]


def show(results: dict[str, Any]) -> None:
    """A line a model and scale, a column a length and number of facts."""
    lines = rows(results)
    print("\n| model | scale of queries | " + " | ".join(f"{e['length']:,}, {e['facts']}" for e in lines[0][2]) + " |")
    print("|" + "---|" * (len(lines[0][2]) + 2))
    for says, scale, records in lines:
        print(f"| {says} | {scale} | " + " | ".join(f"{e['right'] / e['asked']:.1%}" for e in records) + " |")


def draw(experiment: str, results: dict[str, Any], file: Path) -> None:
    """Accuracy by length, 64 facts and growing facts side by side; or by the number of facts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by = "length" if experiment == "positions" else "facts"
    parts: dict[str, dict[int, int] | None] = {"": None}  # which facts to draw at which length
    if by == "length":
        parts = {f"{facts} facts": dict.fromkeys(GROWING, facts) for facts in (8, 64)}
        parts["facts grow, 8 to 256"] = GROWING
    figure, axes = pyplot.subplots(1, len(parts), figsize=(max(5.2, 4 * len(parts)), 3.8), sharey=True, squeeze=False)
    colours = dict(zip(results, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False))
    for axis, (title, facts) in zip(axes[0], parts.items(), strict=True):
        for (says, scale, records), colour in zip(
            rows(results),
            [c for name, c in colours.items() for _ in {each["scale"] for each in results[name]["answers"]}],
            strict=True,
        ):
            kept = [e for e in records if facts is None or facts[e["length"]] == e["facts"]]
            values = [100 * e["right"] / e["asked"] for e in kept]
            label = says + (", log n" if scale != "none" else "")
            style = "o-" if scale == "none" else "s--"
            axis.plot([e[by] for e in kept], values, style, color=colour, label=label, markersize=4)
        axis.axhline(100 / VALUES, color="#888888", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", ylim=(0, 102), title=title)
        axis.set_xlabel("tokens of the text" if by == "length" else "facts in a text of 1,900 tokens")
        axis.set_xticks([e[by] for e in kept], [f"{e[by]:,}" for e in kept])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("answers right, % (dotted: chance)")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=2_200_000, help="that each model is trained on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the variants; all unless told otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    record: dict[str, Any] = {
        "experiment": options.experiment,
        "command": " ".join(["python benchmarks/compare_recall.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "commit": commit.stdout.strip(),
        "seed": options.seed,
        "tokens": options.tokens,
        "chance": 1 / VALUES,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name, variant in VARIANTS[options.experiment].items():
        if options.only is not None and name not in options.only:
            continue
        model, told = train(variant, options.tokens, options.seed)
        results[name] = {"says": variant.says, "trained": told, "answers": examine(options.experiment, model)}
        text_of = json.dumps(record | {"results": results}, indent=1)
        (options.out / "results.json").write_text(text_of + "\n", encoding="utf-8")
    show(results)
    draw(options.experiment, results, options.out / "chart.png")


if __name__ == "__main__":
    main()
