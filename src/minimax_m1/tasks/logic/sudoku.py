"""Sudoku on four by four cells: every row, column and two by two box has 1 to 4.

In: a generator of random numbers and a difficulty, the number of empty cells. Out: a puzzle answered by the whole grid;
any grid that keeps the rules and the given digits is right. The thought goes over the empty cells again and again
and tries 1 to 4 in each, "A2:1A1 2+ 3B2 4A4 A2=2": 1 stands in A1 already, 2 fits, and is the only one, so A2 is 2.
Where several fit the line ends with "A2=?" and the cell waits for the next round.
"""

from __future__ import annotations

import random
import re

from minimax_m1.tasks.example import Example, Family, Reply
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation

Grid = dict[str, str]  # cell such as "A2" to digit; an empty cell is missing

_ROWS, _COLUMNS = "ABCD", "1234"
CELLS = tuple(row + column for row in _ROWS for column in _COLUMNS)
_PROMPTS = (
    "Solve this 4x4 sudoku. Write all four rows in the same form.\n{grid}",
    "Fill in the sudoku and write the whole grid again.\n{grid}",
    "Every row, column and 2x2 box has 1, 2, 3, 4. Write the full grid in the same form.\n{grid}",
    "{grid}\nSolve the sudoku: write the four rows again without gaps.",
    "Here is a small sudoku:\n{grid}\nWrite it again, solved.",
    "sudoku 4x4, give the solved rows A to D:\n{grid}",
)
_ROW = re.compile(r"^([A-D]): ([1-4_]) ([1-4_]) ([1-4_]) ([1-4_])$", re.MULTILINE)
_SOLVED = re.compile(r"A:(?: [1-4]){4}\nB:(?: [1-4]){4}\nC:(?: [1-4]){4}\nD:(?: [1-4]){4}")


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a sudoku, or two with fewer gaps."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws a grid that is solved by filling cells for which one digit is left, over and over."""
    while True:
        solution = _fill(rng, {})
        assert solution is not None
        empty = rng.sample(CELLS, difficulty)
        given = {cell: digit for cell, digit in solution.items() if cell not in empty}
        thought, grid = solve(given)
        if grid == solution:
            prompt = rng.choice(_PROMPTS).format(grid=show(given))
            return Puzzle(prompt=prompt, thought=thought, answer=show(solution))


def solve(given: Grid) -> tuple[str, Grid]:
    """The thought and the grid it ends with, which has gaps where it found no way on."""
    grid, lines = dict(given), list[str]()
    before = -1
    while before < len(grid) < len(CELLS):
        before = len(grid)
        for cell in CELLS:
            if cell in grid:
                continue
            seen = {digit: holder(grid, cell, digit) for digit in _COLUMNS}
            fitting = [digit for digit, other in seen.items() if not other]
            if len(fitting) == 1:
                grid[cell] = fitting[0]
            tries = " ".join(f"{digit}{other or '+'}" for digit, other in seen.items())
            lines.append(f"{cell}:{tries} {cell}={grid.get(cell, '?')}")
    return "\n".join(lines), {cell: grid[cell] for cell in CELLS if cell in grid}


def holder(grid: Grid, cell: str, digit: str) -> str:
    """The cell with the digit in the row, else the column, else the box of a cell; "" if there is none."""
    row = [other for other in CELLS if other[0] == cell[0]]
    column = [other for other in CELLS if other[1] == cell[1]]
    box = [other for other in CELLS if _box(other) == _box(cell)]
    return next((other for other in row + column + box if other != cell and grid.get(other) == digit), "")


def show(grid: Grid) -> str:
    """Four lines such as "A: 1 _ 3 4"."""
    return "\n".join(f"{row}: {' '.join(grid.get(row + column, '_') for column in _COLUMNS)}" for row in _ROWS)


def verify(example: Example, turn: int, reply: Reply) -> bool:
    """True for a full grid in the form of the request that keeps its digits and the rules."""
    return not reply.tool_calls and accepts(example.messages[turn - 1]["content"], reply.content.strip())


def accepts(request: str, answer: str) -> bool:
    """Whether the answer solves the grid of the request."""
    if not _SOLVED.fullmatch(answer):
        return False
    given, grid = _read(request), _read(answer)
    kept = all(grid[cell] == digit for cell, digit in given.items())
    return kept and not any(holder(grid, cell, grid[cell]) for cell in CELLS)


def _read(text: str) -> Grid:
    rows = {row: digits for row, *digits in _ROW.findall(text)}
    return {cell: rows[cell[0]][int(cell[1]) - 1] for cell in CELLS if rows[cell[0]][int(cell[1]) - 1] != "_"}


def _box(cell: str) -> tuple[bool, bool]:
    return cell[0] < "C", cell[1] < "3"


def _fill(rng: random.Random, grid: Grid) -> Grid | None:
    if len(grid) == len(CELLS):
        return grid
    cell = CELLS[len(grid)]
    for digit in rng.sample(_COLUMNS, 4):
        full = None if holder(grid, cell, digit) else _fill(rng, {**grid, cell: digit})
        if full:
            return full
    return None


FAMILY = Family(name="logic_sudoku", sample=sample, verify=verify)
