"""What reinforcement learning gave: held-out pass@1, pass@8 and greedy answers, beside the start and an SFT control.

    python benchmarks/evidence_rl.py --equal-flops runs/nano-rl
    python benchmarks/evidence_rl.py --out runs/evidence-rl --base nano --rl RUN .. --control RUN .. [--jobs 2]

RUNs are one a seed, folders of finished runs or of models. The first command prints how many tokens a control may learn
for the same work. The second asks all models the same held-out cases of each family that the recipe nano-rl trains,
all difficulties in turn: 8 answers to each at temperature 1, and a greedy one. Of several runs the intervals are t over
seeds, of a single model the bootstrap over cases; differences have both.

OUT gets cells/, results.json, chart.png and table.md, anew after every model. The same command goes on.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cells import circumstances, kept, run_cells, write
from interval import Interval

from minimax_m1.engine.request import SamplingParams
from minimax_m1.eval.held_out import grade, pass_at, sample
from minimax_m1.eval.suites import suites
from minimax_m1.llm import LLM
from minimax_m1.train.curves import figure, plain
from minimax_m1.train.curves import read as read_log
from minimax_m1.train.recipes import rl_recipe

GOAL = 0.15  # of pass@1, over the start and over the control
KINDS = {"base": "start", "control": "SFT control", "rl": "CISPO"}
COLOURS = {"base": "#888888", "control": "#0072B2", "rl": "#D55E00"}
ALL = "all"  # families together


def equal_flops(folder: Path) -> tuple[float, float, int]:
    """Tokens that a run played, tokens that it trained, tokens that fine-tuning learns with as many operations.

    A forward pass counts 1 a token, forward and backward 3. Played tokens count the prompt with each of its answers,
    though it is read once for all of them: the control is given the difference.
    """
    lines = read_log(folder / "metrics.jsonl")
    trained = [line["trained_tokens"] for line in lines if "trained_tokens" in line]
    steps = max((line.get("step", 0.0) for line in lines), default=0.0)
    if len(trained) != steps:
        raise SystemExit(f"{folder} logged {len(trained)} of {steps:.0f} updates: it needs log_every=1")
    played = sum(line.get("played_tokens", 0.0) for line in lines)
    return played, sum(trained), round((played + 3 * sum(trained)) / 3)


def model_of(folder: str) -> str:
    """The model of a run's folder, or what was named itself."""
    return str(Path(folder) / "model") if (Path(folder) / "model" / "config.json").is_file() else folder


def measure(name: str, setting: Mapping[str, Any], families: Sequence[str], out: Path) -> None:
    """One cell: a model answers the cases of each family; what it has answered before stays."""
    file = out / "cells" / f"{name}.json"
    told = kept(file, dict(setting)) or {"setting": dict(setting), "families": {}}
    by_name = {suite.name: suite for suite in suites()}
    llm = LLM(setting["model"])
    tokenizer = llm.get_tokenizer()
    params = SamplingParams(n=setting["samples"], temperature=1.0)
    for family in families:
        if family in told["families"]:
            continue
        cases = by_name[family].cases(setting["cases"], setting["seed"], lambda text: len(tokenizer.encode(text)))
        right, _ = grade(llm, cases, tokenizer)
        hits = sample(llm, cases, tokenizer, params, random.Random(f"sample/{setting['seed']}/{family}"))
        told["families"][family] = {"right": [int(good) for good in right], "hits": hits}
        write(file, told)
        print(f"{family}: {sum(right)} of {len(cases)} greedy, {sum(hits)} sampled", flush=True)


def by_case(told: Mapping[str, Any], samples: int) -> dict[str, list[float]]:
    """The three scores of a model's answers to a family, each a number a case; their means are the scores."""
    return {
        "pass@1": [hits / samples for hits in told["hits"]],
        f"pass@{samples}": [pass_at(samples, hits, samples) for hits in told["hits"]],
        "greedy": [float(good) for good in told["right"]],
    }


def compared(values: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """One score on one family: each kind of model, and CISPO's differences to the others."""
    means = {kind: [statistics.fmean(cases) for cases in models] for kind, models in values.items()}
    told: dict[str, Any] = {}
    for kind, models in values.items():
        over_seeds = Interval.over_seeds(means[kind])
        told[kind] = (over_seeds if len(models) > 1 else Interval.over_cases(models[0])).told()
    for kind in KINDS:
        if "rl" not in values or kind not in values or kind == "rl":
            continue
        pairs = zip(_mean_model(values["rl"]), _mean_model(values[kind]), strict=True)
        single = len(means[kind]) == 1
        gaps = [mean - means[kind][0] for mean in means["rl"]]
        told[f"to_{kind}"] = {
            "seeds": (Interval.over_seeds(gaps) if single else Interval.between(means["rl"], means[kind])).told(),
            "cases": Interval.over_cases([ours - other for ours, other in pairs]).told(),
        }
    return told


def _mean_model(models: Sequence[Sequence[float]]) -> list[float]:
    """For each case the mean over models."""
    return [statistics.fmean(case) for case in zip(*models, strict=True)]


def verdict(scores: Mapping[str, Any], kind: str) -> str:
    """On which families pass@1 rose by `GOAL` over a kind of model, and how sure that is."""
    gaps = {family: each[f"to_{kind}"] for family, each in scores.items() if family != ALL}
    lows = {
        family: [gap[way]["low"] for way in ("seeds", "cases") if gap[way]["low"] is not None]
        for family, gap in gaps.items()
    }
    there = [family for family, gap in gaps.items() if gap["seeds"]["mean"] >= GOAL]
    above = [family for family in there if min(lows[family]) > 0]
    sure = [family for family in there if min(lows[family]) >= GOAL]
    return (
        f"Over the {KINDS[kind]} CISPO gains {100 * GOAL:.0f} points of pass@1 or more on {len(there)} of {len(gaps)} "
        f"families ({', '.join(there) or 'none'}); both intervals lie above 0 on {len(above)} of these, "
        f"above {100 * GOAL:.0f} on {len(sure)}."
    )


def report(out: Path, models: Mapping[str, str], setting: dict[str, Any], families: Sequence[str]) -> None:
    """Everything that the finished models tell, in three files."""
    done: dict[str, list[dict[str, Any]]] = {}
    for name, model in models.items():
        told = kept(out / "cells" / f"{name}.json", {**setting, "model": model})
        if told is not None and set(families) <= told["families"].keys():
            done.setdefault(name.partition("-")[0], []).append(told["families"])
    if not done:
        return
    values: dict[str, dict[str, dict[str, list[list[float]]]]] = {}  # score, family, kind: of each model its cases
    for kind, answered in done.items():
        for told in answered:
            by_family = {family: by_case(told[family], setting["samples"]) for family in families}
            for score in by_family[families[0]]:
                places = {family: by_family[family][score] for family in families}
                for place, cases in {**places, ALL: [*chain(*places.values())]}.items():
                    values.setdefault(score, {}).setdefault(place, {}).setdefault(kind, []).append(cases)
    scores = {score: {place: compared(kinds) for place, kinds in by.items()} for score, by in values.items()}
    others = [kind for kind in ("base", "control") if kind in done and "rl" in done]
    record = {
        **circumstances(),
        "setting": setting,
        "models": dict(models),
        "runs": {kind: len(each) for kind, each in done.items()},
        "verdicts": [verdict(scores["pass@1"], kind) for kind in others],
        "scores": scores,
    }
    write(out / "results.json", record)
    (out / "table.md").write_text(markdown(record), "utf-8")
    draw(record, out)


def markdown(record: Mapping[str, Any]) -> str:
    """A table for each score."""
    setting, runs = record["setting"], record["runs"]
    kinds = [kind for kind in KINDS if kind in runs]
    gaps = [kind for kind in kinds if kind != "rl" and "rl" in kinds]
    heads = [f"{KINDS[kind]} ({runs[kind]})" for kind in kinds]
    heads += [f"CISPO less {KINDS[kind]}, {way}" for kind in gaps for way in ("over seeds", "over cases")]
    lines = [
        f"`{record['command']}`, {record['commit']}",
        "",
        f"{setting['cases']} held-out cases a family, {setting['samples']} answers to each at temperature 1; points of "
        "a hundred with 95% intervals: of several runs (their number in brackets) t over seeds, of one model and where "
        "the column says so the bootstrap over cases.",
        "",
        *(f"- {line}" for line in record["verdicts"]),
    ]
    for score, by_place in record["scores"].items():
        lines += ["", f"| {score} | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
        for place, each in by_place.items():
            cells = [Interval(**each[kind]).points() for kind in kinds]
            cells += [Interval(**each[f"to_{kind}"][way]).points(True) for kind in gaps for way in ("seeds", "cases")]
            lines.append(f"| {place} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(record: Mapping[str, Any], out: Path) -> None:
    """pass@1 as bars with their intervals, pass@k of the same models as a line above each."""
    first, most = [name for name in record["scores"] if name.startswith("pass@")][:2]
    places = list(record["scores"][first])
    kinds = [kind for kind in KINDS if kind in record["runs"]]
    chart = figure(1.1 * len(places) + 1.6, 3.6)
    axes = chart.add_subplot(1, 1, 1)
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        across = [place + (number - (len(kinds) - 1) / 2) * width for place in range(len(places))]
        told = [Interval(**record["scores"][first][place][kind]) for place in places]
        above = [100 * record["scores"][most][place][kind]["mean"] for place in places]
        axes.bar(across, [100 * each.mean for each in told], width * 0.92, color=COLOURS[kind], label=KINDS[kind])
        for x, each, top in zip(across, told, above, strict=True):
            if each.low is not None and each.high is not None:
                ends = [100 * max(0.0, each.low), 100 * min(1.0, each.high)]
                axes.plot([x, x], ends, color="#333333", linewidth=0.8)
            axes.plot([x - width * 0.4, x + width * 0.4], [top, top], color=COLOURS[kind], linewidth=1.2)
    axes.set_xticks(range(len(places)), places, rotation=30, ha="right")
    axes.set_ylim(0, 102)
    axes.set_ylabel(f"% {first}; lines: {most}", fontsize=8, color="#333333")
    axes.set_title("Held-out cases; 95% intervals", fontsize=9, loc="left", color="#333333")
    plain(axes)
    axes.legend(fontsize=7, frameon=False, ncols=len(kinds), loc="upper right", bbox_to_anchor=(1, 1.12))
    chart.savefig(out / "chart.png")


def main() -> None:
    """Tells of the control, or asks the models that have not answered yet and reports after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal-flops", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--rl", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--control", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--families", nargs="+", default=sorted(rl_recipe("nano-rl").shares))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="chooses the cases")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2))
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.equal_flops:
        for folder in options.equal_flops:
            played, trained, tokens = equal_flops(folder)
            print(f"{folder}: {played:,.0f} tokens played, {trained:,.0f} trained; a control learns {tokens}")
        return
    if options.out is None:
        parser.error("--out or --equal-flops must be given")
    if unknown := set(options.families) - {suite.name for suite in suites()}:
        parser.error(f"no suite of all difficulties for {', '.join(sorted(unknown))}")
    models = {"base": model_of(options.base)}
    for kind, folders in (("rl", options.rl), ("control", options.control)):
        models |= {f"{kind}-{number}": model_of(folder) for number, folder in enumerate(folders)}
    setting = {"cases": options.cases, "samples": options.samples, "seed": options.seed}
    if options.cell:
        own = {**setting, "model": models[options.cell]}
        measure(options.cell, own, options.families, options.out)
        return
    folder = options.out / "cells"
    todo = []
    for name, model in models.items():
        told = kept(folder / f"{name}.json", {**setting, "model": model})
        if told is None or set(options.families) - told["families"].keys():
            todo.append(name)
    print(f"{len(todo)} of {len(models)} models to ask", file=sys.stderr)
    run_cells(todo, folder, jobs=options.jobs, after=lambda: report(options.out, models, setting, options.families))
    report(options.out, models, setting, options.families)
    print((options.out / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
