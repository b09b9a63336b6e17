"""The whole model on eight cards, worked out from one layer of each kind on one card.

In: the milliseconds that gpu_blocks.py found. Out: tokens a second, in words and numbers. Nothing here is measured:
70 lightning layers, 10 softmax layers and the head are added up, and what passes between cards is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIGHTNING, SOFTMAX, CARDS = 70, 10, 8
PARAMETERS, CARD_GB = 456.1e9, 80
REDUCTION_MS = 0.02  # assumed: one sum over eight cards of a step's hidden states, two of which a layer needs
KINDS = ("lightning", "softmax")
BYTES = {"bf16": 2, "int8": 1}


def projection(facts: Mapping[str, Any]) -> str:
    """The arithmetic as Markdown; empty where the layers were not measured."""
    lines: list[str] = []
    for form, size in BYTES.items():
        sides = [facts.get(f"{kind} {form} {what} ms", {}) for what in ("decode", "prefill") for kind in KINDS]
        if not any(sides):
            continue
        weights = PARAMETERS * size / 1e9
        fits = (
            "which eight cards of 80 GB hold" if weights < 0.95 * CARDS * CARD_GB else "more than eight of 80 GB hold"
        )
        lines += [f"### {form} weights: {weights:,.0f} GB, {fits}", ""]
        lines += decode_lines(sides[0], sides[1], facts.get("head ms", {}))
        lines += prefill_lines(sides[2], sides[3])
        lines.append("")
    return "\n".join(lines)


def decode_lines(lightning: Mapping[str, float], softmax: Mapping[str, float], head: Mapping[str, float]) -> list[str]:
    """Decode, for each number of sequences that both layers were measured with."""
    lines = []
    for rows in lightning:
        if rows not in softmax:
            continue
        last = head.get(rows, 0.0)
        step = LIGHTNING * lightning[rows] + SOFTMAX * softmax[rows] + last
        split = (step - last) / CARDS + 2 * (LIGHTNING + SOFTMAX) * REDUCTION_MS + last / CARDS
        lines.append(
            f"- Decode, {rows} sequences: {LIGHTNING} x {lightning[rows]:.3f} + {SOFTMAX} x {softmax[rows]:.3f} + "
            f"{last:.3f} (head) = {step:.1f} ms a step. Layers in {CARDS} stages of 10, one card at work at a time: "
            f"{1e3 * int(rows) / step:,.0f} tokens/s; {CARDS} such batches under way at once, one a stage: "
            f"{CARDS * 1e3 * int(rows) / step:,.0f}. Every layer split over {CARDS} cards (heads and experts), "
            f"{2 * (LIGHTNING + SOFTMAX)} sums of {REDUCTION_MS} ms each assumed: {split:.1f} ms a step, "
            f"{1e3 * int(rows) / split:,.0f} tokens/s."
        )
    return lines


def prefill_lines(lightning: Mapping[str, float], softmax: Mapping[str, float]) -> list[str]:
    """Prefill: stages take a prompt's slices one after another, since each needs only its own states of the last."""
    lines = []
    for tokens in lightning:
        if tokens not in softmax:
            continue
        whole = LIGHTNING * lightning[tokens] + SOFTMAX * softmax[tokens]
        lines.append(
            f"- Prefill, {int(tokens):,} tokens: {LIGHTNING} x {lightning[tokens]:.2f} + {SOFTMAX} x "
            f"{softmax[tokens]:.2f} = {whole:,.0f} ms. One card at a time: {1e3 * int(tokens) / whole:,.0f} tokens/s; "
            f"{CARDS} stages all at work on slices: {CARDS * 1e3 * int(tokens) / whole:,.0f}."
        )
    return lines
