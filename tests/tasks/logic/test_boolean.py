"""Expressions have the value that Python gives them, and each step of the thought keeps it."""

from __future__ import annotations

import random
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import boolean

EXPRESSION = re.compile(r"(?:\b(?:not|and|or|true|false|[bcdghjkmpqrsuwxyz])\b|[() ])+")
VALUES = {"T": True, "F": False, "true": True, "false": False}


def value(expression: str, known: dict[str, bool]) -> bool:
    return bool(eval(expression, {"__builtins__": {}}, known))  # our own text, never a model's


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_the_answer_is_the_value(seed: int, difficulty: int) -> None:
    puzzle = boolean.pose(random.Random(seed), difficulty)
    known = {name: VALUES[said] for name, said in re.findall(r"\b(\w)(?: = |=| is )(true|false)\b", puzzle.prompt)}
    assert "not not" not in puzzle.prompt
    if known:
        found = [text.strip() for text in EXPRESSION.findall(puzzle.prompt)]
        (expression,) = (text for text in found if all(re.search(rf"\b{name}\b", text) for name in known))
        assert puzzle.answer == ("true" if value(expression, known) else "false")
        assert len(known) == (6 * difficulty + 14) // 10


@given(seed=st.integers(0, 2**32), count=st.integers(1, 8))
def test_each_line_works_out_what_is_known(seed: int, count: int) -> None:
    rng = random.Random(seed)
    names = list("bcdghjkm"[:count])
    values = {name: rng.choice("TF") for name in names}
    tokens = boolean._tree(rng, names)
    thought, result = boolean.work_out(tokens, values)
    known = {name: letter == "T" for name, letter in values.items()}
    assert (result == "T") == value(" ".join(tokens), known)
    lines = thought.splitlines()
    assert [line.split(": ")[0] for line in lines] == names
    for place, line in enumerate(lines, 1):
        states = line.split(": ")[1].split("->")
        rest = re.split(rf"\b{names[place - 1]}\b", " ".join(tokens))[1]  # every state goes on as the expression does
        for state in states:
            assert any(
                value(state + closed, VALUES | known) == (result == "T")
                for closed in (rest, *(rest.replace(")", "", n) for n in range(1, rest.count(")") + 1)))
                if (state + closed).count("(") == (state + closed).count(")")
            )
    assert lines[-1].endswith(result)


def test_true_is_not_worked_out_from_its_place() -> None:
    thought, result = boolean.work_out(["not", "(", "p", "and", "q", ")", "or", "r"], {"p": "T", "q": "F", "r": "F"})
    assert thought == "p: not (T\nq: not (T and F->not F->T\nr: T or F->T" and result == "T"


def test_both_answers_are_equally_common() -> None:
    rng = random.Random(0)
    counts = Counter(boolean.pose(rng, 1 + n % 10).answer for n in range(2000))
    assert set(counts) == {"true", "false"} and abs(counts["true"] - 1000) < 100
