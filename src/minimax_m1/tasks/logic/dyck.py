"""Dyck words: brackets that were opened must be closed.

In: a generator of random numbers and a difficulty (3 to 21 brackets). Out: a puzzle answered by the missing brackets.
The thought reads bracket by bracket and says after each which brackets are still needed, the next one first;
the last line is the answer.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation

CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_DEEPEST = 6
_PROMPTS = (
    "Close the brackets: {text}\nAnswer with the missing brackets alone.",
    "Which brackets are missing at the end? Write them alone.\n{text}",
    "Complete the brackets. Write only what is missing.\n{text}",
    "{text}\nClose all open brackets; write only the closing ones.",
    "What closes {text} ? Give the missing brackets alone.",
    "Some brackets are still open: {text}\nWrite the brackets that close them, nothing else.",
)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a text with open brackets, or two short ones."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws the beginning of a balanced text; one to six brackets are open at its end."""
    length = 2 * difficulty + 1  # odd, so that one is open at the end
    kinds = list(CLOSING) if difficulty > 2 else rng.sample(list(CLOSING), 2)
    text = needed = ""
    while len(text) < length:
        if needed and (len(needed) == _DEEPEST or rng.random() < 0.42):
            text, needed = text + needed[0], needed[1:]
        else:
            bracket = rng.choice(kinds)
            text, needed = text + bracket, CLOSING[bracket] + needed
    return Puzzle(prompt=rng.choice(_PROMPTS).format(text=text), thought=trace(text), answer=needed)


def trace(text: str) -> str:
    """A line for each bracket: "bracket:needed", with "-" where nothing is open."""
    lines, needed = [], ""
    for bracket in text:
        if bracket in CLOSING:
            needed = CLOSING[bracket] + needed
        else:
            assert needed[:1] == bracket, f"{bracket} closes nothing in {text}"
            needed = needed[1:]
        lines.append(f"{bracket}:{needed or '-'}")
    return "\n".join(lines)


FAMILY = Family(name="logic_dyck", sample=sample, verify=matches)
