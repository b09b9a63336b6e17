"""Every grid that keeps givens and rules is right, no other; each try of the thought is true."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import sudoku

FREE = "A: _ _ 3 4\nB: _ _ 1 2\nC: _ _ 4 3\nD: _ _ 2 1"  # two solutions for each of two pairs of rows
ONE = "A: 1 2 3 4\nB: 3 4 1 2\nC: 2 1 4 3\nD: 4 3 2 1"
OTHER = "A: 2 1 3 4\nB: 4 3 1 2\nC: 1 2 4 3\nD: 3 4 2 1"


def solutions(grid: list[list[int]]) -> int:
    """How many ways there are to fill the zeros, found by trying all."""
    for row in range(4):
        for column in range(4):
            if grid[row][column]:
                continue
            taken = {grid[row][c] for c in range(4)} | {grid[r][column] for r in range(4)}
            taken |= {grid[row // 2 * 2 + r][column // 2 * 2 + c] for r in range(2) for c in range(2)}
            total = 0
            for digit in {1, 2, 3, 4} - taken:
                grid[row][column] = digit
                total += solutions(grid)
            grid[row][column] = 0
            return total
    return 1


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_a_puzzle_has_one_solution_and_it_is_the_answer(seed: int, difficulty: int) -> None:
    puzzle = sudoku.pose(random.Random(seed), difficulty)
    rows = re.findall(r"^[A-D]: (.*)$", puzzle.prompt, re.MULTILINE)
    grid = [[int(digit) for digit in row.replace("_", "0").split()] for row in rows]
    assert sum(row.count(0) for row in grid) == difficulty
    assert solutions(grid) == 1
    assert sudoku.accepts(puzzle.prompt, puzzle.answer)
    for place, sign in enumerate(puzzle.answer):
        if sign.isdigit():
            wrong = puzzle.answer[:place] + str(int(sign) % 4 + 1) + puzzle.answer[place + 1 :]
            assert not sudoku.accepts(puzzle.prompt, wrong)
    renamed = puzzle.answer.translate(str.maketrans("1234", "2341"))  # keeps the rules, not the given digits
    assert not sudoku.accepts(puzzle.prompt, renamed)


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_each_try_is_true(seed: int, difficulty: int) -> None:
    puzzle = sudoku.pose(random.Random(seed), difficulty)
    grid = sudoku._read(puzzle.prompt)
    for line in puzzle.thought.splitlines():
        cell, tries, digit = re.fullmatch(r"(..):(.*) \1=(.)", line).groups()  # type: ignore[union-attr]
        assert cell not in grid
        fits = []
        for attempt in tries.split(" "):
            if attempt[1:] == "+":
                fits.append(attempt[0])
            else:
                other = attempt[1:]
                assert grid[other] == attempt[0]
                box = {name: ("AB" in f"{name[0]}AB", name[1] in "12") for name in (cell, other)}
                same_box = (cell[0] in "AB") == (other[0] in "AB") and box[cell][1] == box[other][1]
                assert cell[0] == other[0] or cell[1] == other[1] or same_box
        assert [attempt[0] for attempt in tries.split(" ")] == list("1234")
        assert digit == (fits[0] if len(fits) == 1 else "?")
        if digit != "?":
            grid[cell] = digit
    assert sudoku.show(grid) == puzzle.answer


def test_more_than_one_solution_may_be_right() -> None:
    mixed = "A: 1 2 3 4\nB: 4 3 1 2\nC: 2 1 4 3\nD: 3 4 2 1"
    for answer in (ONE, OTHER):
        assert sudoku.accepts(FREE, answer)
    assert sudoku.accepts(FREE, mixed)
    assert not sudoku.accepts(FREE.replace("A: _", "A: 1"), OTHER)


def test_a_grid_must_have_the_form_of_the_request() -> None:
    request = "Solve it.\n" + FREE.replace("A: _", "A: 1")
    assert sudoku.accepts(request, ONE)
    for answer in (
        FREE,
        ONE.replace("A: ", ""),
        ONE.replace("A", "a"),
        ONE.replace(" ", "  "),
        ONE.replace("\n", " "),
        ONE.replace("\n", "\n\n"),
        ONE + "\nA: 1 2 3 4",
        "\n".join(reversed(ONE.splitlines())),
        ONE.replace("1", "\u0661"),
        "A: 1 2 3 4\nB: 1 2 3 4\nC: 1 2 3 4\nD: 1 2 3 4",
        "A: 1 2 3 4\nB: 2 3 4 1\nC: 3 4 1 2\nD: 4 1 2 3",  # rows and columns right, boxes not
    ):
        assert not sudoku.accepts(request, answer), answer


def test_a_stuck_grid_stays_open() -> None:
    thought, grid = sudoku.solve(sudoku._read(FREE))
    assert len(grid) == 8 and thought.count("=?") == 8
