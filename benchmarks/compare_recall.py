"""What recall owes to the positions and to the pattern of layers: small models trained alike and asked at any length.

    python benchmarks/compare_recall.py positions|patterns FOLDER [--layers 4] [--tokens 2500000] [--threads 1]

positions: half of each head rotated and positions that skip ahead (the default of this package), positions that do not
skip, and no rotation at all; each also with its queries scaled by max(1, ln n / ln 2048) when it answers. patterns: one
softmax layer (the last), two (the last and the middle one) and none. Every model has hidden size 128, heads of 32 and
8 experts of 128, the embedded model's tokenizer, the same seed, and reads the same texts: lists of pairs, or prose with
up to 40 facts strewn in, at first of up to 200 tokens and from 30% of the run on of up to 1,900, followed by up to 24
questions. Only what the assistant says carries loss.

Then facts are asked for in texts that no training saw; an answer is right where every token of "key: value" and its end
is the likeliest. FOLDER keeps each variant's model and metrics.jsonl, and a variant that is there is not trained again.
Tables go to stdout, everything to FOLDER/positions.json or FOLDER/patterns.json.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minimax_m1 import presets
from minimax_m1.config import LIGHTNING, SOFTMAX, MiniMaxM1Config
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.tasks.prose import approx_tokens, sentence
from minimax_m1.tasks.words import made_up
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.document import Document, skipped_positions
from minimax_m1.train.pack import pack
from minimax_m1.train.step import adamw, train_step

SEED = 0
SHORTEST, FIRST_LONGEST, LONGEST = 40, 200, 1900  # tokens of a training text before its questions
GROWN = 0.3  # share of the run from which on texts are as long as `LONGEST`
TRAINED = 2048  # the training length, for the scale of queries
MAX_POSITION = 1_048_576
BATCH, RATE, WARMUP, DECAY_FROM, CHUNK = 2048, 3e-3, 50, 0.6, 2048
FACT, IN_A_SENTENCE = "{key}: {value}", "Note that {key}: {value}."
# Asked afterwards: (what it is called, tokens of the text, facts in it, texts). No number of facts means a list.
IN_PROSE = ((2_000, 10), (8_000, 10), (32_000, 5), (128_000, 3))
ASKED: dict[str, tuple[tuple[str, int, int | None, int], ...]] = {
    "positions": tuple(("20 facts in prose", tokens, 20, texts) for tokens, texts in IN_PROSE),
    "patterns": tuple(
        (what, tokens, most, texts)
        for what, most, texts in (("4 facts in prose", 4, 25), ("a list of pairs", None, 5))
        for tokens in (500, 2_000, 8_000)
    ),
}
QUESTIONS = 32  # to a text, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of a comparison; `softmax` layers are spread evenly and include the last."""

    name: str
    softmax: int = 1
    rotary_dim: int = 16
    max_position: int = MAX_POSITION

    def config(self, layers: int, tokenizer: MiniMaxM1Tokenizer) -> MiniMaxM1Config:
        """nano's shape with another number of layers."""
        alpha = (2 * layers) ** 0.25
        kinds = [LIGHTNING] * layers
        for number in range(self.softmax):
            kinds[layers - 1 - number * (layers // self.softmax)] = SOFTMAX
        return presets.nano().replace(
            num_hidden_layers=layers,
            attn_type_list=tuple(kinds),
            rotary_dim=self.rotary_dim,
            vocab_size=tokenizer.vocab_size,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            layernorm_full_attention_alpha=alpha,
            layernorm_linear_attention_alpha=alpha,
            layernorm_mlp_alpha=alpha,
        )


LAST = Variant(name="one softmax layer, half of each head rotated, positions skip")
VARIANTS = {
    "positions": {
        "half-skips": LAST,
        "half-plain": Variant(name="half of each head rotated, positions do not skip", max_position=0),
        "none": Variant(name="no rotation", rotary_dim=0),
    },
    "patterns": {
        "half-skips": LAST,  # the same model
        "two": Variant(name="two softmax layers", softmax=2),
        "linear": Variant(name="no softmax layer", softmax=0),
    },
}


def text(
    rng: random.Random, tokens: int, most: int | None, count: Callable[[str], int] = approx_tokens
) -> tuple[str, list[tuple[str, str]]]:
    """Prose of so many tokens with at most `most` facts at even or random places, or a list of pairs; and the facts."""
    pairs: dict[str, str] = {}
    lines: list[str] = []
    while tokens > 0 or len(pairs) < 2:
        if most is None or len(pairs) < most:
            while (key := made_up(rng)) in pairs:
                pass
            pairs[key] = str(rng.randrange(100, 1000))
            lines.append((FACT if most is None else IN_A_SENTENCE).format(key=key, value=pairs[key]))
        else:
            lines.append(sentence(rng))
        tokens -= count(lines[-1]) + 1
    rng.shuffle(lines)
    return ("\n" if most is None else " ").join(lines), list(pairs.items())


def question(key: str, value: str, tokenizer: MiniMaxM1Tokenizer) -> tuple[list[int], list[int]]:
    """What asks, "key: ", and the value that answers."""
    return tokenizer.encode(f"{key}: "), tokenizer.encode(value)


def documents(total: int, done: Callable[[], int], max_position: int, tokenizer: MiniMaxM1Tokenizer) -> Iterator[Any]:
    """Training texts without end; positions are drawn last, so all variants read the same."""
    index, line_end = 0, tokenizer.encode("\n")
    while True:
        rng = random.Random(f"{SEED}/{index}")
        grown = min(1.0, done() / (GROWN * total))
        longest = FIRST_LONGEST * (LONGEST / FIRST_LONGEST) ** grown
        length = round(SHORTEST * (longest / SHORTEST) ** rng.random())
        document, pairs = text(rng, length, None if rng.random() < 0.5 else round(2 * 20 ** rng.random()))
        ids = tokenizer.encode(document + "\n\n")
        said = [0] * len(ids)
        for pair in rng.sample(pairs, min(len(pairs), QUESTIONS)):
            asked, value = question(*pair, tokenizer)
            ids += asked + value + line_end
            said += [0] * len(asked) + [1] * len(value) + [0]
        positions = skipped_positions(len(ids), max_position, rng)
        yield Document(ids=ids, said=said, positions=positions, place=f"recall/{index}")
        index += 1


def train(variant: Variant, layers: int, total: int, folder: Path) -> None:
    """Trains a variant and writes metrics.jsonl and, at the end, the model."""
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    torch.manual_seed(SEED)
    model = MiniMaxM1ForCausalLM(variant.config(layers, tokenizer))
    optimizer = adamw(model, rate=RATE, betas=(0.9, 0.95), eps=1e-8, decay=0.1)
    tokens = step = 0
    source = documents(total, lambda: tokens, variant.max_position, tokenizer)
    waiting = next(source)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
        sums = {"loss": 0.0, "answer_accuracy": 0.0}
        while tokens < total:
            packed, size = [], 0
            while not packed or size + len(waiting.ids) <= BATCH:
                packed.append(waiting)
                size += len(waiting.ids)
                waiting = next(source)
            fall = max(0.0, (tokens / total - DECAY_FROM) / (1 - DECAY_FROM))
            rate = RATE * min(1.0, (step + 1) / WARMUP) * max(0.02, 1 - fall)
            data = pack(packed, 0.0)
            figures = train_step(model, optimizer, data, rate=rate, clip_norm=1.0, precision="bfloat16", report=False)
            tokens, step = tokens + size, step + 1
            sums = {key: value + figures[key] / 10 for key, value in sums.items()}
            if step % 10 == 0:
                told = {key: round(value, 4) for key, value in sums.items()}
                log.write(json.dumps({"step": step, "tokens": tokens, **told, "cpu": time.process_time()}) + "\n")
                log.flush()
                sums = dict.fromkeys(sums, 0.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ask(
    models: list[MiniMaxM1ForCausalLM], document: str, pairs: list[tuple[str, str]], tokenizer: MiniMaxM1Tokenizer
) -> tuple[list[tuple[float, list[bool]]], int]:
    """For each pair the share of the text before it and whether each model answers right; and the text's tokens.

    The models are one with several scales of queries in its last layer alone, which nothing that is kept depends on:
    the text is read once.
    """
    ids = tokenizer.encode(document + "\n\n")
    model, state = models[0], models[0].empty_state()
    for start in range(0, len(ids), CHUNK):
        state = model.run(Batch.of([ids[start : start + CHUNK]], state), state, logits="none").state
    found = []
    for key, value in pairs:
        asked, wanted = question(key, value, tokenizer)
        batch = Batch.of([asked + wanted[:-1]], state)
        rights = []
        for each in models:
            logits = each.run(batch, state, logits=[len(wanted)]).logits
            assert logits is not None
            rights.append(logits.argmax(-1).tolist() == wanted)
        found.append((document.find(f"{key}:") / len(document), rights))
    return found, len(ids)


def examine(experiment: str, folder: Path, tokenizer: MiniMaxM1Tokenizer) -> list[dict[str, Any]]:
    """One record a kind of text, length and scale of queries: questions, how many were right, by quarter of depth."""
    plain = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False).eval()
    models = [plain]
    if experiment == "positions":
        scaled = MiniMaxM1ForCausalLM(plain.config.replace(softmax_log_n=TRAINED), init=False).eval()
        scaled.load_state_dict(plain.state_dict())
        models.append(scaled)
    records = []
    for what, tokens, most, texts in ASKED[experiment]:
        answers: list[tuple[float, list[bool]]] = []
        read = 0
        rng = random.Random(f"asked/{what}/{tokens}")
        for _ in range(texts):
            document, pairs = text(rng, tokens, most, lambda line: len(tokenizer.encode(line)))
            some = rng.sample(pairs, min(QUESTIONS, len(pairs)))
            found, shared = ask(models, document, some, tokenizer)
            answers += found
            read += shared
        for number, scale in enumerate(("none", "log n")[: len(models)]):
            depths = [[rights[number] for at, rights in answers if int(at * 4) == quarter] for quarter in range(4)]
            right = sum(rights[number] for _, rights in answers)
            records.append(
                {
                    "text": what,
                    "tokens": round(read / texts),
                    "length": tokens,
                    "scale": scale,
                    "asked": len(answers),
                    "right": right,
                    "by_depth": [[sum(each), len(each)] for each in depths],
                }
            )
            print(f"{folder.name}, {what}, {tokens:,} tokens, scale {scale}: {right} of {len(answers)}", flush=True)
    return records


def show(results: dict[str, Any]) -> None:
    """A line a variant and scale, a column a kind of text and length."""
    names = list(results)
    heads = list(dict.fromkeys((each["text"], each["length"]) for each in results[names[0]]["answers"]))
    print("\n| model | scale of queries | " + " | ".join(f"{what}, {length:,}" for what, length in heads) + " |")
    print("|" + "---|" * (len(heads) + 2))
    for told in results.values():
        for scale in dict.fromkeys(each["scale"] for each in told["answers"]):
            cells = [each for each in told["answers"] if each["scale"] == scale]
            shares = " | ".join(f"{each['right'] / each['asked']:.0%}" for each in cells)
            print(f"| {told['says']} | {scale} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(VARIANTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4, help="of every model; the patterns need an even number")
    parser.add_argument("--tokens", type=int, default=2_500_000, help="that each model is trained on")
    parser.add_argument("--only", metavar="NAME", help="train this variant and stop")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    results: dict[str, Any] = {}
    for name, variant in VARIANTS[options.experiment].items():
        folder = options.folder / name
        if options.only not in (None, name):
            continue
        if not (folder / "config.json").exists():
            train(variant, options.layers, options.tokens, folder)
        lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        results[name] = {"says": variant.name, "trained": json.loads(lines[-1])}
    if options.only is not None:
        return
    with torch.inference_mode():
        for name, told in results.items():
            told["answers"] = examine(options.experiment, options.folder / name, tokenizer)
    show(results)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    record = {
        "experiment": options.experiment,
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": commit.stdout.strip(),
        "seed": SEED,
        "layers": options.layers,
        "tokens": options.tokens,
        "results": results,
    }
    file = options.folder / f"{options.experiment}.json"
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
