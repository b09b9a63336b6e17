"""What is settled before a run's first step: the user's files read and found good, and the run's length in tokens.

In: a recipe and whether bad lines are to be left out. Out: `Ready`, or a DataError that names files and lines, before
anything is trained or written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.check import check
from minimax_m1.train.recipe import DATA, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A recipe whose length is known, and the places "FILE:LINE" that are left out."""

    recipe: Recipe
    skip: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()  # what the user should know of the files


def ready(
    recipe: Recipe,
    tokenizer: MiniMaxM1Tokenizer,
    *,
    skip_bad: bool,
    progress: Callable[[int], None] | None = None,
) -> Ready:
    """Checks the files against the shortest window of the run; `epochs` become tokens.

    Raises DataError where a line cannot be used and is not to be left out, or where none is left.
    """
    if not recipe.data:
        return Ready(recipe=recipe)
    files, window = [Path(file) for file in recipe.data], min(phase.length for phase in recipe.phases)
    report = check(files, tokenizer, window, progress)
    report.refuse(skip_bad, "lines")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
    notes = [f"data: {kinds}; {report.tokens:,} tokens, {report.said:,} of them learned in full"]
    if report.bad:
        notes.append(f"{len(report.bad):,} lines are left out, the first {report.faults[0]}")
    notes += [f"{count:,} lines have a key that nothing reads: {key}" for key, count in report.unread.items()]
    if recipe.epochs:
        tokens = max(1, round(recipe.epochs * report.tokens / recipe.shares[DATA]))
        recipe = replace(recipe, tokens=tokens, epochs=0.0)
    return Ready(recipe=recipe, skip=report.bad, notes=tuple(notes))
