"""CISPO, DAPO, GRPO and REINFORCE from one checkpoint at 1, 4 and 16 updates a batch: the M1 report's figure 2, small.

    python benchmarks/compare_rl.py --out runs/compare-rl [--start nano] [--family logic_arrows] [--seeds 3] [--jobs 2]

All cells of a seed get the same prompts in float32 rollouts and bfloat16 updates; no filter, no refills, no length
penalty, one rate. The curve is the share of right answers in each batch before it is learned: of a family, at even
difficulty and no prompt twice, held-out pass@1 at temperature 1; of a user's file (--data, --reward), whose prompts
come again each epoch, the share of answers with a reward of 1. Losses as published: DAPO clips at 0.8 and 1.28 and
counts tokens alike in a group, as CISPO (cap 5) and REINFORCE do; GRPO clips at 0.8 and 1.2 and takes means over
sequences. At 1 update no ratio differs from 1 but by rounding, so that CISPO, DAPO and REINFORCE are one and the same,
and are run once.

OUT gets cells/, results.json, chart.png and table.md, anew after every cell. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from cells import circumstances, kept, run_cells, write
from interval import Interval

from minimax_m1.train import checkpoint, loop
from minimax_m1.train.curves import figure, plain
from minimax_m1.train.curves import read as read_log
from minimax_m1.train.rl.policy_loss import PolicyLoss
from minimax_m1.train.rl.recipe import RLRecipe

LOSSES: Mapping[str, PolicyLoss] = {
    "cispo": PolicyLoss(algorithm="cispo", is_weight_max=5.0),
    "dapo": PolicyLoss(algorithm="dapo", clip_low=0.2, clip_high=0.28),
    "grpo": PolicyLoss(algorithm="grpo", clip_low=0.2, clip_high=0.2, loss_norm="sample"),
    "reinforce": PolicyLoss(algorithm="reinforce"),
}
NAMES = {"cispo": "CISPO", "dapo": "DAPO", "grpo": "GRPO", "reinforce": "REINFORCE"}
ALIKE = {"dapo": "cispo", "reinforce": "cispo"}  # at 1 update
COLOURS = {"cispo": "#D55E00", "dapo": "#0072B2", "grpo": "#009E73", "reinforce": "#CC79A7"}
WINDOW = 3  # batches of a running mean; the last one is the final score
Curves = dict[tuple[int, str], list[list[float]]]  # by updates and algorithm: pass rates by batch, one list a seed


def setting_of(options: argparse.Namespace) -> dict[str, Any]:
    """What decides a cell, beside its name."""
    keys = (
        "start",
        "family",
        "data",
        "reward",
        "batches",
        "prompts",
        "group",
        "rate",
        "max_difficulty",
        "output_length",
    )
    return {key: getattr(options, key) for key in keys}


def name_of(algorithm: str, updates: int, seed: int) -> str:
    """A cell's; those that would be alike have one."""
    return f"{ALIKE.get(algorithm, algorithm) if updates == 1 else algorithm}-{updates}-{seed}"


def measure(name: str, setting: Mapping[str, Any], out: Path) -> None:
    """One cell: a run from its start, or from its checkpoint, to its end; of its folder the figures are kept."""
    algorithm, updates, seed = name.split("-")
    folder = out / "cells" / name
    begun = time.monotonic()
    if checkpoint.whole(folder / "checkpoint"):
        loop.resume(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        recipe = RLRecipe(
            name=name,
            start=setting["start"],
            shares={"data" if setting["data"] else setting["family"]: 1.0},
            data=tuple(setting["data"]),
            rewards=(setting["reward"],),
            batches=setting["batches"],
            prompts=setting["prompts"],
            group=setting["group"],
            updates=int(updates),
            refills=0,
            output_lengths=(setting["output_length"],),
            context=2048,
            overlong_share=0.0,
            max_difficulty=setting["max_difficulty"],
            adaptive=False,
            loss=LOSSES[algorithm],
            seed=int(seed),
            learning_rate=setting["rate"],
            final_learning_rate=setting["rate"],
            warmup_steps=int(updates),
            precision="bfloat16",
        )
        loop.train(recipe, folder)
    lines = read_log(folder / "metrics.jsonl")
    batches = [line for line in lines if "pass_rate" in line]
    if len(batches) != setting["batches"]:
        raise SystemExit(f"{folder} tells of {len(batches)} batches, not {setting['batches']}")
    told = {
        "setting": dict(setting),
        "pass_rate": [line["pass_rate"] for line in batches],
        "length": [line["length"] for line in batches],
        "groups_kept": [line["groups_kept"] for line in batches],
        "entropy": [line["entropy"] for line in batches if "entropy" in line],
        "agreement": [line["agreement"] for line in batches if "agreement" in line],
        "clip_share": statistics.fmean(line["clip_share"] for line in lines if "clip_share" in line),
        "weight_max": max(line["weight_max"] for line in lines if "weight_max" in line),
        "updates": max(line["step"] for line in lines),
        "minutes": round((time.monotonic() - begun) / 60, 2),  # of the last process
    }
    write(out / "cells" / f"{name}.json", told)
    shutil.rmtree(folder)


def smooth(curve: Sequence[float]) -> list[float]:
    """Running means of `WINDOW` batches; entry b is the mean up to batch b + WINDOW - 1."""
    return [statistics.fmean(curve[at : at + WINDOW]) for at in range(len(curve) - WINDOW + 1)]


def reached(curve: Sequence[float], score: float) -> int | None:
    """Batches learned when the running mean first is at least this much; None: never.

    The mean's last batch counts; n batches have been learned before batch n is answered, counted from 0.
    """
    return next((at + WINDOW - 1 for at, mean in enumerate(smooth(curve)) if mean >= score - 1e-12), None)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean over seeds, batch by batch."""
    return [statistics.fmean(at) for at in zip(*curves, strict=True)]


def row(updates: int, algorithm: str, curves: Curves, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line of the table; differences to DAPO are between runs of one seed, which had the same prompts."""
    ours, dapo = curves[updates, algorithm], curves.get((updates, "dapo"), [])
    told: dict[str, Any] = {"updates": updates, "algorithm": algorithm, "seeds": len(ours)}
    scores = {"area": statistics.fmean, "final": lambda curve: statistics.fmean(curve[-WINDOW:])}
    for name, score in scores.items():
        told[name] = Interval.over_seeds([score(curve) for curve in ours]).told()
        if dapo and algorithm not in ("dapo", ALIKE["dapo"] if updates == 1 else ""):
            gaps = [score(one) - score(other) for one, other in zip(ours, dapo, strict=False)]
            told[f"{name}_to_dapo"] = Interval.over_seeds(gaps).told()
    first = [statistics.fmean(curve[-WINDOW:]) - statistics.fmean(curve[:WINDOW]) for curve in ours]
    told["rise"] = Interval.over_seeds(first).told()
    told["made"] = statistics.fmean(cell["updates"] / len(cell["pass_rate"]) for cell in cells)
    told["clip_share"] = statistics.fmean(cell["clip_share"] for cell in cells)
    told["weight_max"] = max(cell["weight_max"] for cell in cells)
    told["entropy_end"] = statistics.fmean(statistics.fmean(cell["entropy"][-WINDOW:]) for cell in cells)
    told["curve"] = [Interval.over_seeds(at).told() for at in zip(*ours, strict=True)]
    return told


def verdict(updates: int, ours: Sequence[Sequence[float]], dapo: Sequence[Sequence[float]]) -> dict[str, Any]:
    """When CISPO has DAPO's final score: on the mean over seeds, and for each seed by itself."""
    last = len(dapo[0]) - 1

    def told(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
        score = statistics.fmean(other[-WINDOW:])
        return {"score": score, "cispo": reached(one, score), "dapo": reached(other, score), "of": last}

    both = min(len(ours), len(dapo))  # seeds that both have
    ours, dapo = ours[:both], dapo[:both]
    mean = told(mean_curve(ours), mean_curve(dapo))
    at, own, score = mean["cispo"], mean["dapo"], f"{mean['score']:.1%}"
    if at is None:
        says = f"CISPO does not reach DAPO's final score of {score} in {last} batches"
    else:
        says = f"CISPO has DAPO's final score of {score} after {at} of {last} batches, {at / last:.0%} of DAPO's steps"
        says += f"; DAPO itself first had it after {own}"
        says += ": half the steps or less" if at <= last / 2 else ": not in half the steps"
    seeds = [told(one, other) for one, other in zip(ours, dapo, strict=True)]
    each = ", ".join("never" if seed["cispo"] is None else str(seed["cispo"]) for seed in seeds)
    return {
        "updates": updates,
        "says": f"{updates} updates: {says} (seeds by themselves: {each}).",
        "seeds": seeds,
        **mean,
    }


def report(out: Path, setting: dict[str, Any], options: argparse.Namespace) -> None:
    """Everything that the finished cells tell, in three files."""
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for updates in options.updates:
        for algorithm in LOSSES:
            files = [out / "cells" / f"{name_of(algorithm, updates, seed)}.json" for seed in range(options.seeds)]
            # Seeds are compared pairwise: those from 0 on of which none is missing.
            if done := [*takewhile(lambda told: told is not None, (kept(file, setting) for file in files))]:
                cells[updates, algorithm] = [told for told in done if told is not None]
    if not cells:
        return
    curves = {key: [cell["pass_rate"] for cell in some] for key, some in cells.items()}
    rows = [row(*key, curves, some) for key, some in cells.items() if key[0] > 1 or key[1] not in ALIKE]
    verdicts = [
        verdict(updates, curves[updates, "cispo"], curves[updates, "dapo"])
        for updates in options.updates
        if updates > 1 and {(updates, "cispo"), (updates, "dapo")} <= curves.keys()
    ]
    starts = [
        {some[seed]["pass_rate"][0] for some in cells.values() if seed < len(some)} for seed in range(options.seeds)
    ]
    record = {
        **circumstances(),
        "setting": setting,
        "seeds": options.seeds,
        "same_first_batch": all(len(values) < 2 for values in starts),
        "verdicts": verdicts,
        "rows": rows,
        "pass_rates": {f"{algorithm}-{updates}": some for (updates, algorithm), some in curves.items()},
    }
    write(out / "results.json", record)
    (out / "table.md").write_text(markdown(record), "utf-8")
    draw(curves, options.updates, f"{task(setting)}, {setting['prompts']} x {setting['group']} answers", out)


def task(setting: Mapping[str, Any]) -> str:
    """What is learned, in words."""
    if setting["data"]:
        return f"{Path(setting['data'][0]).name} by {Path(setting['reward']).name}"
    return f"{setting['family']} at difficulties 1 to {setting['max_difficulty']}"


def markdown(record: Mapping[str, Any]) -> str:
    """The table, and what it says."""
    setting = record["setting"]
    lines = [
        f"`{record['command']}`, {record['commit']}",
        "",
        f"{setting['batches']} batches of {setting['prompts']} x {setting['group']} answers, {task(setting)}, "
        f"rate {setting['rate']:g}, {record['seeds']} seeds. Points of "
        f"a hundred with 95% intervals (t over seeds). Area: all batches; final: the last {WINDOW}; rise: since the "
        f"first {WINDOW}; to DAPO: difference at the same seed and prompts; limited: tokens whose ratio was clipped; "
        "made: updates a batch, fewer where fewer prompts had answers of different worth.",
        "",
        "| updates | made | loss | area | to DAPO | final | to DAPO | rise | limited | top weight | entropy, end |",
        "|" + "---|" * 11,
    ]
    for each in record["rows"]:
        shown = {key: Interval(**each[key]).points(key not in ("area", "final")) for key in _SHOWN if key in each}
        figures = " | ".join(shown.get(key, "") for key in _SHOWN)
        lines.append(
            f"| {each['updates']} | {each['made']:.1f} | {label(each['algorithm'], each['updates'])} | {figures} | "
            f"{each['clip_share']:.2%} | {each['weight_max']:.2f} | {each['entropy_end']:.3f} |"
        )
    same = "are" if record["same_first_batch"] else "ARE NOT"
    lines += ["", *(f"- {each['says']}" for each in record["verdicts"])]
    lines.append(f"- The first batches of all cells of a seed {same} alike, as they must be.")
    return "\n".join(lines) + "\n"


_SHOWN = ("area", "area_to_dapo", "final", "final_to_dapo", "rise")  # columns of the table


def label(algorithm: str, updates: int) -> str:
    """At 1 update one run stands for several."""
    alike = [other for other, stands in ALIKE.items() if stands == algorithm] if updates == 1 else []
    return " = ".join(NAMES[each] for each in (algorithm, *alike))


def draw(curves: Curves, updates: Sequence[int], title: str, out: Path) -> None:
    """A panel for each number of updates: running means over seeds, their intervals pale behind."""
    chart = figure(4.2 * len(updates), 3.4)
    chart.suptitle(f"Right answers to new prompts, {title}; bands: 95% over seeds", fontsize=10, color="#333333")
    first = None
    for place, count in enumerate(updates):
        first = axes = chart.add_subplot(1, len(updates), place + 1, sharey=first)
        for algorithm, colour in COLOURS.items():
            some = curves.get((count, algorithm))
            if some is None or (count == 1 and algorithm in ALIKE):
                continue
            points = [Interval.over_seeds(at) for at in zip(*map(smooth, some), strict=True)]
            across = [at + WINDOW - 1 for at in range(len(points))]
            axes.plot(
                across, [100 * each.mean for each in points], linewidth=1.4, color=colour, label=label(algorithm, count)
            )
            if len(some) > 1:
                low, high = ([100 * (getattr(each, end) or 0.0) for each in points] for end in ("low", "high"))
                axes.fill_between(across, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.set_title(f"{count} update{'s' if count > 1 else ''} a batch", fontsize=9, loc="left", color="#333333")
        axes.set_xlabel("batches learned", fontsize=8, color="#333333")
        axes.set_ylabel(f"% right, mean of {WINDOW} batches" if place == 0 else "", fontsize=8, color="#333333")
        plain(axes)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False, loc="lower right")
    means = [100 * mean for some in curves.values() for mean in smooth(mean_curve(some))]
    if first is not None:  # bands of two seeds may be wider than the chart
        first.set_ylim(max(0.0, min(means) - 12), min(102.0, max(means) + 6))
    chart.savefig(out / "chart.png")


def main() -> None:
    """Runs what is not done, reporting after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="nano")
    parser.add_argument("--family", default="logic_arrows")
    parser.add_argument("--data", nargs="*", default=[], help="files of prompts instead of the family, with --reward")
    parser.add_argument("--reward", default="family", help="an answer that is worth 1 has passed")
    parser.add_argument("--batches", type=int, default=25, help=f"at least {WINDOW}")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--updates", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--max-difficulty", type=int, default=10)
    parser.add_argument("--output-length", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2))
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batches < WINDOW:
        parser.error(f"--batches must be at least {WINDOW}")
    setting = setting_of(options)
    if options.cell:
        measure(options.cell, setting, options.out)
        return
    # A seed's cells of all kinds come before the next seed's, so that a run cut short compares what it has.
    names = dict.fromkeys(
        name_of(algorithm, updates, seed)
        for seed in range(options.seeds)
        for updates in sorted(options.updates, reverse=True)
        for algorithm in LOSSES
    )
    todo = [name for name in names if kept(options.out / "cells" / f"{name}.json", setting) is None]
    print(f"{len(todo)} of {len(names)} cells to run", file=sys.stderr)
    run_cells(todo, options.out / "cells", jobs=options.jobs, after=lambda: report(options.out, setting, options))
    report(options.out, setting, options)
    print((options.out / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
