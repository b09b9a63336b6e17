"""An arrow maze: from a cell, go where the arrows point.

In: a generator of random numbers and a difficulty, which sets the size (2x2 to 6x6) and the way (up to 15 steps).
Out: a puzzle answered by a cell such as "B3": where the star is that one comes to, or where one is after some steps.
The thought numbers the steps, "1 A1>A2": on A1 stands >, so A2 is next.
"""

from __future__ import annotations

import random
from itertools import pairwise

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation

Cell = tuple[int, int]  # row, column, from 0

MOVES = {">": (0, 1), "<": (0, -1), "^": (-1, 0), "v": (1, 0)}
_STAR_PROMPTS = (
    "{grid}\nStart at {start} and follow the arrows to a star. Which cell is it? Answer with the cell.",
    "Follow the arrows from {start} until a star.\n{grid}\nWhich cell is the star in? Give the cell alone.",
    "{grid}\nFrom {start}, which star do the arrows lead to? Answer like A1.",
    "A maze of arrows:\n{grid}\nYou begin at {start}. At which star do you end? Answer like A1.",
    "Begin at {start}. Where does the way end? Answer with the cell, like A1.\n{grid}",
)
_STEP_PROMPTS = (
    "{grid}\nStart at {start} and follow the arrows for {steps}. Where are you? Answer with the cell.",
    "Follow the arrows from {start} for {steps}.\n{grid}\nWhich cell do you come to? Give the cell alone.",
    "{grid}\nWhere do you stand after {steps} from {start}? Answer like A1.",
    "A maze of arrows:\n{grid}\nYou begin at {start} and go {steps}. Where are you then? Answer like A1.",
    "Begin at {start}. Where are you after {steps}? Answer with the cell, like A1.\n{grid}",
)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a maze, or two small ones."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws a grid of arrows through which a way leads that never crosses itself."""
    size = 2 + 4 * difficulty // 10
    length = max(1, round(difficulty * rng.uniform(0.8, 1.5)))
    path = _walk(rng, size, length)
    arrows = {(row, column): _arrow(rng, size, (row, column)) for row in range(size) for column in range(size)}
    for here, there in pairwise(path):
        arrows[here] = next(sign for sign in MOVES if _moved(here, sign) == there)
    to_star = rng.random() < 0.5
    if to_star:
        off = [cell for cell in arrows if cell not in path]
        for cell in [path[-1], *rng.sample(off, min(len(off), difficulty // 3))]:
            arrows[cell] = "*"
    grid = "\n".join(
        f"{_name((row, 0))[0]}: {' '.join(arrows[row, column] for column in range(size))}" for row in range(size)
    )
    steps = "1 step" if len(path) == 2 else f"{len(path) - 1} steps"
    prompt = rng.choice(_STAR_PROMPTS if to_star else _STEP_PROMPTS).format(
        grid=grid, start=_name(path[0]), steps=steps
    )
    lines = [f"{_name(here)}{arrows[here]}{_name(there)}" for here, there in pairwise(path)]
    thought = "\n".join(f"{number} {line}" for number, line in enumerate(lines, 1))
    return Puzzle(prompt=prompt, thought=thought, answer=_name(path[-1]))


def _walk(rng: random.Random, size: int, length: int) -> list[Cell]:
    """A way of at most `length` steps to ever new cells; the longest of some tries."""
    longest: list[Cell] = []
    for _ in range(8):
        path = [(rng.randrange(size), rng.randrange(size))]
        while len(path) <= length:
            ahead = [_moved(path[-1], sign) for sign in MOVES]
            ahead = [cell for cell in ahead if _inside(size, cell) and cell not in path]
            if not ahead:
                break
            path.append(rng.choice(ahead))
        longest = max(longest, path, key=len)
    return longest


def _arrow(rng: random.Random, size: int, cell: Cell) -> str:
    return rng.choice([sign for sign in MOVES if _inside(size, _moved(cell, sign))])


def _moved(cell: Cell, sign: str) -> Cell:
    return cell[0] + MOVES[sign][0], cell[1] + MOVES[sign][1]


def _inside(size: int, cell: Cell) -> bool:
    return all(0 <= place < size for place in cell)


def _name(cell: Cell) -> str:
    return f"{'ABCDEF'[cell[0]]}{cell[1] + 1}"


FAMILY = Family(name="logic_arrows", sample=sample, verify=matches)
