"""The families of logic puzzles, one a puzzle."""

from __future__ import annotations

from minimax_m1.tasks.logic import arrows, boolean, countdown, dyck, knights, lies, sorting, sudoku

FAMILIES = (
    boolean.FAMILY,
    dyck.FAMILY,
    sorting.FAMILY,
    lies.FAMILY,
    sudoku.FAMILY,
    arrows.FAMILY,
    knights.FAMILY,
    countdown.FAMILY,
)
