"""A head in float32 or bfloat16: how far sampler and trainer agree on probabilities (M1 report, section 3.2).

    python benchmarks/compare_head.py --out runs/compare-head [--model nano] [--tokens 50000] [--shifts 0 32 128]

The sampler decodes through the engine's kernels, the trainer runs packed texts as an update does. Both have everything
else in bfloat16, the trainer either its weights and activations too, or products alone beside float32 weights (mixed,
as `precision=bfloat16` trains). A head in bfloat16 rounds inputs, weights and logits; softmax is always float32. A
shift adds to all rows of the head one direction that raises all logits by about so much: the policy stays but for
rounding, and logits get as large as a model's whose training never held them back.

OUT gets cells/, results.json, chart.png and table.md, anew after every sampler. The same command goes on.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cells import circumstances, kept, run_cells, write
from interval import Interval
from torch import Tensor

from minimax_m1.engine.request import SamplingParams
from minimax_m1.kernels.head.reference import Scores
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8
from minimax_m1.llm import LLM
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.curves import figure, plain
from minimax_m1.train.recipes import rl_recipe
from minimax_m1.train.rl.policy_loss import agreement
from minimax_m1.train.rl.prompt_family import FamilyPrompts
from minimax_m1.train.rl.rollout import RolloutBatch
from minimax_m1.train.rl.update import score

ROUND, GROUP, LONGEST, PASS = 48, 4, 256, 8192  # prompts at a time, answers to each, tokens of one, of a forward pass
POINTS = 3000  # of a scatter
UNSURE = (0.05, 0.95)  # a sampler's probabilities that are told by themselves: most of nano's are nearly 1
SAMPLERS = {"float32": "float32", "head32": "bfloat16, head float32", "head16": "bfloat16, head bfloat16"}
# The weights' dtype, the products' and the head's.
TRAINERS = {
    "float32": ("float32", "float32", "float32"),
    "bfloat16-head32": ("bfloat16", "float32", "float32"),  # products follow the weights
    "bfloat16-head16": ("bfloat16", "float32", "bfloat16"),
    "mixed-head32": ("float32", "bfloat16", "float32"),
    "mixed-head16": ("float32", "bfloat16", "bfloat16"),
}
# Who is compared with whom: everything in float32, what a run with precision=bfloat16 has, and the heads.
PAIRS = {"float32": ("float32", "mixed-head32"), "head32": (*TRAINERS,)[1:], "head16": (*TRAINERS,)[1:]}


def narrow_linear(wide: Callable[[Tensor, Tensor | Int8], Tensor], vocabulary: int) -> Callable[..., Tensor]:
    """The engine's linear map, which for the head's weight [V, M] multiplies and rounds as bfloat16 does."""

    def linear(x: Tensor, weight: Tensor | Int8) -> Tensor:
        if isinstance(weight, Int8) or len(weight) != vocabulary:
            return wide(x, weight)
        return (x.bfloat16() @ weight.bfloat16().T).to(x.dtype)

    return linear


def narrow_head(x: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """The trainer's head in bfloat16: in and out as kernels/head/reference.py."""
    logits = (x.bfloat16() @ weight.bfloat16().T).float()
    logs = logits.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    return Scores(logs.gather(1, targets[:, None])[:, 0], entropy, logits.argmax(-1) == targets)


def prompts(tokenizer: MiniMaxM1Tokenizer, round_: int) -> list[list[int]]:
    """So many of the families that the recipe nano-rl trains, of any difficulty."""
    rng = random.Random(f"heads/{round_}")
    names = sorted(rl_recipe("nano-rl").shares)
    sources = {name: FamilyPrompts(name, tokenizer, 0, 1024) for name in names}
    return [sources[rng.choice(names)].draw(rng.randrange(10**6), rng.randint(1, 10)).ids for _ in range(ROUND)]


def loaded(name: str, dtype: torch.dtype, shift: float, ops: Ops) -> tuple[MiniMaxM1ForCausalLM, float]:
    """The model with a shifted head, in a dtype; and the mean of its rows' largest |logit|."""
    model = MiniMaxM1ForCausalLM.from_pretrained(name, dtype=torch.float32, progress=False).requires_grad_(False).eval()
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(name)
    batch = [torch.tensor(ids) for ids in prompts(tokenizer, 0)[:16]]
    hidden = torch.cat([_hidden(model, ids) for ids in batch])
    if shift:
        # Least squares: the direction that gives every row's hidden state the same product, as nearly as one can.
        direction = torch.linalg.lstsq(hidden, torch.full((len(hidden), 1), shift)).solution[:, 0]
        model.lm_head.weight.add_(direction)
    size = float((hidden @ model.lm_head.weight.T).abs().amax(-1).mean())
    model = model.to(dtype)
    model.ops = ops
    return model, size


def _hidden(model: MiniMaxM1ForCausalLM, ids: Tensor) -> Tensor:
    state = model.empty_state()
    hidden = model.run(Batch.of([ids.tolist()], state), state, logits="all", head=False).hidden
    assert hidden is not None
    return hidden


def sampled(model: MiniMaxM1ForCausalLM, tokenizer: MiniMaxM1Tokenizer, tokens: int) -> RolloutBatch:
    """Answers at temperature 1 with the sampler's log-probs, until the model has written so many tokens."""
    llm = LLM.of(model, tokenizer, max_model_len=2048, max_num_seqs=ROUND * GROUP)
    ids: list[int] = []
    own: list[bool] = []
    logprobs: list[float] = []
    lengths: list[int] = []
    groups: list[int] = []
    round_ = 0
    while sum(own) < tokens:
        params = SamplingParams(n=GROUP, temperature=1.0, max_tokens=LONGEST, logprobs=0, seed=round_)
        for output in llm.generate(prompts(tokenizer, round_), params, use_tqdm=False):
            for answer in output.outputs:
                assert answer.logprobs is not None and answer.error is None
                known = len(output.prompt_token_ids)
                ids += [*output.prompt_token_ids, *answer.token_ids]
                own += [False] * known + [True] * len(answer.token_ids)
                told = zip(answer.token_ids, answer.logprobs, strict=True)
                logprobs += [0.0] * known + [each[token].logprob for token, each in told]
                lengths.append(known + len(answer.token_ids))
                groups.append(len(groups) // GROUP)
        round_ += 1
    return RolloutBatch(
        ids=torch.tensor(ids),
        own=torch.tensor(own),
        logprobs=torch.tensor(logprobs),
        lengths=torch.tensor(lengths),
        groups=torch.tensor(groups),
        advantages=torch.zeros(len(groups)),
    )


@torch.no_grad()
def trained(model: MiniMaxM1ForCausalLM, rollouts: RolloutBatch, precision: str) -> tuple[Tensor, Tensor]:
    """Log-probs of the model's own tokens, the trainer's and the sampler's."""
    ours, theirs = [], []
    for part in rollouts.passes(PASS):
        scores, places, _ = score(model, part, precision=precision)
        ours.append(scores.logprob)
        theirs.append(part.logprobs[places])
    return torch.cat(ours).double(), torch.cat(theirs).double()


def measure(name: str, setting: Mapping[str, Any], out: Path) -> None:
    """One cell: a sampler, and all trainers that it is compared with."""
    sampler, shift = name.split("-")
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(setting["model"])
    ops = Ops.fastest(torch.device("cpu"))
    dtype = torch.float32 if sampler == "float32" else torch.bfloat16
    model, size = loaded(setting["model"], dtype, float(shift), ops)
    if sampler == "head16":
        model.ops = replace(ops, linear=narrow_linear(ops.linear, model.config.vocab_size))
    rollouts = sampled(model, tokenizer, setting["tokens"])
    told: dict[str, Any] = {"setting": dict(setting), "logit": size, "kernels": ops.name, "trainers": {}}
    for trainer in PAIRS[sampler]:
        weights, precision, head = TRAINERS[trainer]
        learner = Ops.torch() if head == "float32" else replace(Ops.torch(), head=narrow_head)
        model, _ = loaded(setting["model"], getattr(torch, weights), float(shift), learner)
        ours, theirs = trained(model, rollouts, precision)
        unsure = (theirs.exp() > UNSURE[0]) & (theirs.exp() < UNSURE[1])
        some = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))[:POINTS]
        told["trainers"][trainer] = {
            "tokens": len(ours),
            **agreement(ours, theirs),
            "unsure_tokens": int(unsure.sum()),
            "unsure_pearson": agreement(ours[unsure], theirs[unsure]).get("pearson"),
            "pearson_tenths": tenths(ours, theirs).told(),
            "points": torch.stack([theirs[some], ours[some]], 1).exp().mul(1e4).round().div(1e4).tolist(),
        }
        print(trainer, {k: v for k, v in told["trainers"][trainer].items() if k != "points"}, flush=True)
    write(out / "cells" / f"{name}.json", told)


def tenths(ours: Tensor, theirs: Tensor) -> Interval:
    """The correlation in each tenth of the tokens by itself: how much of it is chance."""
    told = [agreement(*part) for part in zip(ours.chunk(10), theirs.chunk(10), strict=True)]
    return Interval.over_seeds([each["pearson"] for each in told if "pearson" in each])


def report(out: Path, options: argparse.Namespace) -> None:
    """Everything that the finished cells tell, in three files."""
    rows = []
    points: dict[str, list[list[float]]] = {}
    for shift in options.shifts:
        for sampler in SAMPLERS:
            name = f"{sampler}-{shift}"
            told = kept(out / "cells" / f"{name}.json", setting_of(options))
            if told is None:
                continue
            for trainer, figures in told["trainers"].items():
                points[f"{name}/{trainer}"] = figures.pop("points")
                rows.append({"shift": shift, "logit": told["logit"], "sampler": sampler, "trainer": trainer, **figures})
    if not rows:
        return
    record = {**circumstances(), "setting": setting_of(options), "rows": rows}
    write(out / "results.json", record)
    (out / "table.md").write_text(markdown(record), "utf-8")
    draw(points, options.shifts, out)


def markdown(record: Mapping[str, Any]) -> str:
    """A line for each pair of sampler and trainer."""
    setting = record["setting"]
    lines = [
        f"`{record['command']}`, {record['commit']}",
        "",
        f"{setting['model']}, at least {setting['tokens']:,} sampled tokens in each line; logit: the largest of a row, "
        f"mean; tenths: mean and 95% interval over tenths of the tokens; unsure: tokens whose probability is between "
        f"{UNSURE[0]:g} and {UNSURE[1]:g}.",
        "",
        "| logit | sampler | trainer | correlation | tenths | of unsure | mean difference, nats | largest |",
        "|" + "---|" * 8,
    ]
    for each in record["rows"]:
        part = Interval(**each["pearson_tenths"])
        ends = "" if part.low is None or part.high is None else f"{part.mean:.6f} ({part.low:.6f} to {part.high:.6f})"
        unsure = "" if each["unsure_pearson"] is None else f"{each['unsure_pearson']:.6f}"
        lines.append(
            f"| {each['logit']:.1f} | {SAMPLERS[each['sampler']]} | {says(each['trainer'])} | {each['pearson']:.6f} | "
            f"{ends} | {unsure} | {each['dlogp_mean']:.2e} | {each['dlogp_max']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def says(trainer: str) -> str:
    """A trainer in words."""
    kind, _, head = trainer.partition("-")
    return f"{kind}, head {head.replace('head32', 'float32').replace('head16', 'bfloat16')}" if head else kind


def draw(points: Mapping[str, Sequence[Sequence[float]]], shifts: Sequence[float], out: Path) -> None:
    """Probabilities, the trainer's over the sampler's: the same head on both sides, a row of panels for each shift."""
    shown = ("float32/float32", "head32/bfloat16-head32", "head16/bfloat16-head16")
    titles = ("all float32", "bfloat16, head float32", "bfloat16, head bfloat16")
    chart = figure(3.2 * len(shown), 3.2 * len(shifts))
    for row, shift in enumerate(shifts):
        for column, (name, title) in enumerate(zip(shown, titles, strict=True)):
            sampler, trainer = name.split("/")
            axes = chart.add_subplot(len(shifts), len(shown), row * len(shown) + column + 1)
            if some := points.get(f"{sampler}-{shift}/{trainer}"):
                across, up = zip(*some, strict=True)
                axes.scatter(across, up, s=3, color="#0072B2", alpha=0.4, linewidths=0)
            axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.6)
            moved = f", logits moved by {shift:g}" if shift else ""
            axes.set_title(f"{title}{moved}", fontsize=8.5, loc="left", color="#333333")
            axes.set_xlabel("sampler's probability", fontsize=8, color="#333333")
            axes.set_ylabel("trainer's" if column == 0 else "", fontsize=8, color="#333333")
            plain(axes)
    chart.savefig(out / "chart.png")


def setting_of(options: argparse.Namespace) -> dict[str, Any]:
    """What decides a cell, beside its name."""
    return {"model": options.model, "tokens": options.tokens}


def main() -> None:
    """Runs what is not done, reporting after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--shifts", type=float, nargs="+", default=[0.0, 32.0, 128.0])
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2))
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.shifts) < 0:
        parser.error("--shifts are at least 0")
    if options.cell:
        measure(options.cell, setting_of(options), options.out)
        return
    folder = options.out / "cells"
    names = [f"{sampler}-{shift}" for shift in options.shifts for sampler in SAMPLERS]
    todo = [name for name in names if kept(folder / f"{name}.json", setting_of(options)) is None]
    print(f"{len(todo)} of {len(names)} cells to run", file=sys.stderr)
    run_cells(todo, folder, jobs=options.jobs, after=lambda: report(options.out, options))
    report(options.out, options)
    print((options.out / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
