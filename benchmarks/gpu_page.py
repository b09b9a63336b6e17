"""The page of bench_gpu.py: tables of times against floors, what was right, what was aimed at, what was left out.

In: what was measured, and what the compiler said of each kernel. Out: Markdown, a short text for the terminal, and a
row for results.jsonl. Where no GPU has run yet the page says so and gives the command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_projection import projection

COMMAND = "PYTHONPATH=src python benchmarks/bench_gpu.py --out runs/gpu"
COMPILED = "python benchmarks/gpu_resources.py --json runs/gpu/resources.json"
UNITS = {"tokens_per_second": "tokens/s", "peak_mb": "MB at most", "experts_met": "experts met"}
PEER = {"lightning": "fla", "recurrent": "fla"}  # sections whose cases the section "fla" runs as well
AIMS = """| aim of the issue, on one H100 | row |
|---|---|
| lightning forward, 8K to 1M tokens: at least 1.5 times fla, 60% of the bandwidth's floor | lightning, forward |
| forward and backward: at least 1.2 times fla | lightning, forward and backward |
| time a token flat from 32K to 1M | lightning, forward |
| decode step, 64 slots: at least 80% of the floor | recurrent, 64 slots |
| a whole layer: prefill at 55% of the matrix rate, decode at 75% of the bandwidth | blocks, bf16 |"""


def joined(told: dict[str, Any]) -> None:
    """Sets fla's times beside ours of the same name, which were taken in the same call."""
    theirs = {row["case"]: row["ms"] for row in told["sections"].get("fla", {}).get("rows", [])}
    for section, name in PEER.items():
        for row in told["sections"].get(section, {}).get("rows", []):
            if row["case"] in theirs and "peers" in row:
                ratio = theirs[row["case"]] / row["ms"]
                row["peers"][name], row["ratios"][name] = theirs[row["case"]], ratio
                if name in row["aims"]:
                    row["aims"][name][1] = ratio


def page(told: Mapping[str, Any] | None, compiled: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    parts = ["# Kernels on a GPU", ""]
    parts += measured(told) if told is not None else unmeasured()
    if compiled:
        parts += ["", "## What each kernel takes", "", *resources(compiled)]
    return "\n".join(parts) + "\n"


def unmeasured() -> list[str]:
    """No GPU has run yet."""
    return [
        "No GPU was at hand yet: **the timings are owed.** Every kernel answers to its reference in Triton's",
        "interpreter, forward and backward, and compiles for an H100, which the table below is from. One call of under",
        "ten minutes on an H100 or H200 checks and times everything and writes this page anew:",
        "",
        f"    {COMMAND}",
        "",
        "with fla-core on PYTHONPATH, if it is to be compared. What it will be held to:",
        "",
        AIMS,
    ]


def measured(told: Mapping[str, Any]) -> list[str]:
    """What was found, section by section."""
    rates = told["ceilings"]
    parts = [
        f"`{told['command']}`, {told['began']}, commit {told['commit']}, {told.get('seconds', 0):.0f} s.",
        f"{rates.get('gpu', 'a CPU')}, driver {rates.get('driver', '-')}, torch {rates.get('torch', '-')}, "
        f"triton {rates.get('triton', '-')}, Python {told['python']}.",
        "",
    ]
    if told["toy"]:
        parts += ["**Toy sizes in Triton's interpreter, on a CPU: the times here measure nothing.**", ""]
    parts += [
        f"Ceilings, measured in the same call: a large copy moves {rates.get('copy_gb_per_s', 0):,.0f} GB/s (read and",
        f"written), an 8192³ bf16 product runs at {rates.get('bf16_product_tflops', 0):,.0f} TFLOP/s. A row's floor is",
        "the larger of its bytes over the one and its operations over the other. Errors are against float64 (or the",
        "reference in a wider dtype), relative to the norm; a kernel that is wrong is not timed. fp8 products may pass",
        "the floor, which is that of bf16.",
        "",
        *(aims(told) if not told["toy"] else []),
    ]
    for name, section in told["sections"].items():
        parts += ["", f"## {name}", "", *rows(section)]
        parts += [f"- {what}: {fact}" for what, fact in section.get("facts", {}).items() if not isinstance(fact, dict)]
        for left_out, why in section.get("faults", {}).items():
            parts.append(f"- **{left_out}**: {why.splitlines()[0] if why else why}")
        if section["state"] != "done":
            parts.append(f"- The section {section['state'].removeprefix('was ')}.")
    text = projection(told["sections"].get("blocks", {}).get("facts", {}))
    if text:
        parts += ["", "## The 456B model on eight cards, worked out from the layers above", "", text]
    parts += ["", "## Checks", "", *checks(told)]
    return parts


def aims(told: Mapping[str, Any]) -> list[str]:
    """Each aim beside its figure."""
    lines = ["| aim | row | least | found | |", "|---|---|---:|---:|---|"]
    for section in told["sections"].values():
        for row in section.get("rows", []):
            for name, (least, found) in row.get("aims", {}).items():
                what = "of the floor" if name == "floor" else f"times {name}"
                said = "not measured" if found is None else f"{found:.2f}"
                verdict = "" if found is None else "met" if found >= least else "**missed**"
                lines.append(f"| {what} | {row['section']}, {row['case']} | {least:.2f} | {said} | {verdict} |")
    rows = told["sections"].get("lightning", {}).get("rows", [])
    long = [row for row in rows if row["case"].startswith("forward ") and row.get("tokens", 0) >= 2**15]
    each = [row["ms"] / row["tokens"] for row in long]
    if len(each) > 1:
        spread = max(each) / min(each)
        lines.append(f"| slowest over fastest token, 32K to 1M | lightning, forward | 1.00 | {spread:.2f} | |")
    return lines


def rows(section: Mapping[str, Any]) -> list[str]:
    """A section's table."""
    found = section.get("rows", [])
    if not found:
        return []
    whole = [row for row in found if "floor_ms" in row]
    lines = []
    if whole:
        lines += ["| case | ms | rate | floor ms | of the floor | error | peers: ms (ratio) |"]
        lines += ["|---|---:|---:|---:|---:|---:|---|"]
    for row in whole:
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        peers = "; ".join(f"{name} {peer(row, name)}" for name in row["peers"])
        more = "".join(f"; {amount(row[name])} {unit}" for name, unit in UNITS.items() if name in row)
        lines.append(
            f"| {row['case']}{more} | {row['ms']:.4g} | {row['rate']:,.0f} {row['unit']} | {row['floor_ms']:.4g} | "
            f"{row['fraction']:.0%} | {error} | {peers} |"
        )
    if len(whole) < len(found):
        lines += ["", "| case | ms | tokens/s | peak MB |", "|---|---:|---:|---:|"]
    for row in found:
        if "floor_ms" not in row:
            peak = amount(row["peak_mb"]) if "peak_mb" in row else ""
            lines.append(f"| {row['case']} | {row['ms']:.4g} | {row['tokens_per_second']:,.0f} | {peak} |")
    return lines


def peer(row: Mapping[str, Any], name: str) -> str:
    """What a peer took, and how many times ours that is."""
    took = row["peers"][name]
    return took if isinstance(took, str) else f"{took:.4g} ({row['ratios'][name]:.2f}x)"


def amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def checks(told: Mapping[str, Any]) -> list[str]:
    """What was compared, and how far off it was."""
    lines = ["| section | check | worst error | bound |", "|---|---|---:|---:|"]
    for section in told["sections"].values():
        for check in section.get("checks", []):
            worst = max(check["errors"].values())
            mark = "" if check["right"] else " **wrong**"
            lines.append(f"| {check['section']} | {check['check']} | {worst:.1e}{mark} | {check['bound']:.0e} |")
    return lines


def resources(compiled: Sequence[Mapping[str, Any]]) -> list[str]:
    """The compiler's table."""
    spilling = [f"`{told['kernel']}`" for told in compiled if told["spilled"]]
    lines = [
        f"`{COMPILED}`,",
        "compiled for sm_90, which takes no GPU: a thread's registers and the bytes of its stack; a block's shared",
        "memory and warps; blocks that one SM holds; matrix instructions; the widest load of a thread. Where shared",
        "memory and warps are the same, the configuration with the most registers is shown. What does not fit into",
        f"registers goes to the stack, in memory: of {len(compiled)} different launches {len(spilling)} have some there"
        f"{', those of ' + ' and '.join(sorted({*spilling})) if spilling else ''}.",
        "",
        "| such as | kernel | registers | stack | shared KB | warps | blocks an SM | matrix | load bytes |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    kept: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for told in compiled:
        key = tuple(told[name] for name in ("kernel", "shared", "warps", "matrix"))
        if key not in kept or kept[key]["registers"] + kept[key]["spilled"] < told["registers"] + told["spilled"]:
            kept[key] = told
    for told in kept.values():
        widest = max([*map(int, told["loads"]), *map(int, told["copies"])], default=0)
        lines.append(
            f"| {told['cases'][0]} | `{told['kernel']}` | {told['registers']} | {told['spilled']} | "
            f"{told['shared'] / 1024:.1f} | {told['warps']} | {told['blocks']} | {told['matrix'] or '-'} | "
            f"{widest or '-'} |"
        )
    return lines


def summary(told: Mapping[str, Any]) -> str:
    """The end of what the terminal shows."""
    lines = [f"{told['ceilings'].get('gpu', 'toy sizes')}: {told.get('seconds', 0):.0f} s"]
    for name, section in told["sections"].items():
        wrong = sum(not check["right"] for check in section.get("checks", []))
        lines.append(f"{name}: {section['state']}, {len(section.get('rows', []))} rows, {wrong} wrong")
        for row in section.get("rows", []):
            share = f"{row['fraction']:6.1%}" if "fraction" in row else f"{row['tokens_per_second']:,.0f} tokens/s"
            ratios = " ".join(f"{peer} {ratio:.2f}x" for peer, ratio in row.get("ratios", {}).items())
            lines.append(f"  {row['case'][:64]:64} {row['ms']:10.4f} ms {share} {ratios}")
        lines += [f"  {what}: {why.splitlines()[0][:160]}" for what, why in section.get("faults", {}).items()]
    return "\n".join(lines)


def record(out: Path, file: Path) -> None:
    """Appends what was measured to results.jsonl, in short."""
    told = json.loads((out / "results.json").read_text("utf-8"))
    assert not told["toy"], "toy sizes are no measurement"
    kept = ("ms", "rate", "unit", "fraction", "error", "ratios", "tokens_per_second", "peak_mb")
    row = {
        "benchmark": "gpu",
        **{name: told[name] for name in ("command", "commit", "began", "seconds", "ceilings")},
        "results": {
            name: {row["case"]: {k: row[k] for k in kept if k in row} for row in section.get("rows", [])}
            for name, section in told["sections"].items()
        },
    }
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
