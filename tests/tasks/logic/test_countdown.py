"""Any expression with the numbers and the value is right, no other; the search computes rightly."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import countdown

REFERENCE = "((4+6)+2)*2"

leaves = st.integers(0, 30).map(str)
expressions = st.recursive(
    leaves,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]}{p[1]}{p[2]})"),
    max_leaves=8,
)


def exact(text: str) -> Fraction:
    return Fraction(eval(re.sub(r"(\d+)", r"F(\1)", text), {"F": Fraction, "__builtins__": {}}))  # made by this test


@given(
    text=expressions
    | st.lists(leaves, min_size=1, max_size=8).flatmap(
        lambda numbers: st.lists(st.sampled_from("+-*/"), min_size=len(numbers), max_size=len(numbers)).map(
            lambda signs: "".join(n + s for n, s in zip(numbers, signs, strict=True))[:-1]
        )
    )
)
def test_values_are_those_of_exact_fractions(text: str) -> None:
    try:
        wanted = exact(text)
    except ZeroDivisionError:
        assert countdown.value_of(text) is None
        return
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert countdown.value_of(text) == (wanted, numbers)
    assert countdown.value_of(re.sub(r"([-+*/()])", r" \1 ", text).strip()) == (wanted, numbers)


@pytest.mark.parametrize(
    "answer", ["((4+6)+2)*2", "2*(2+6+4)", "(2 + 4 + 6) * 2", "((2))*((4+6)+2)", "4*6*2/2", "4*6/(2/2)", "6*2*(4-2)"]
)
def test_other_ways_are_right_too(answer: str) -> None:
    assert countdown.accepts(REFERENCE, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "24",
        "4+6+2+2",  # right numbers, wrong value: a known verifier lets any such pass
        "4*6",  # right value, numbers left over
        "4*6*2/2*2/2",
        "4*6+22-22",
        "22+4-6/2",
        "4*6+(2-2)+0",
        "(4+6+2)*2=24",
        "= (4+6+2)*2",
        "(4+6+2)x2",
        "(4+6+2)\u00d72",
        "(4+6+2)2",
        "(4+6+2)*2.0",
        "(4+6+2)*+2",
        "(4+6--2)*2",
        "-(-4-6-2)*2",
        "(04+6+2)*2",
        "(4+6+2)**2*2",
        "(4+6+2*2",
        "4+6+2)*2",
        "(4+6+2)*",
        "()",
        "(4+6+2)*2)",
        "(4+6+2(*2",
        "(4+6+2)*2 2",
        "4*6/(2-2)",
        "4*6//2*2",
        "(4+6+2)\n*2",
        "(4+6+2)*2 # so",
        "(4+6+2)*int('2')",
        "(4+6+2)*٢",
        "(4+6+2)*²",
        "(" * 60 + "(4+6+2)*2" + ")" * 60,
    ],
)
def test_everything_else_is_wrong(answer: str) -> None:
    assert not countdown.accepts(REFERENCE, answer)


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_the_answer_makes_the_target_from_the_numbers(seed: int, difficulty: int) -> None:
    puzzle = countdown.pose(random.Random(seed), difficulty)
    header = re.match(r"([\d ]+) to (\d+)\n", puzzle.thought)
    assert header
    numbers, target = list(map(int, header[1].split())), int(header[2])
    assert sorted(map(int, re.findall(r"\d+", puzzle.prompt))) == sorted([*numbers, target])
    assert exact(puzzle.answer) == target
    assert sorted(map(int, re.findall(r"\d+", puzzle.answer))) == sorted(numbers)
    assert len(numbers) == (2 if difficulty < 3 else 3 if difficulty < 7 else 4)
    off_by_one = puzzle.answer.replace(str(numbers[0]), str(numbers[0] + 1), 1)
    assert not countdown.accepts(puzzle.answer, off_by_one)


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_the_search_computes_rightly_and_is_short(seed: int, difficulty: int) -> None:
    puzzle = countdown.pose(random.Random(seed), difficulty)
    lines = puzzle.thought.splitlines()
    target = int(lines[0].split(" to ")[1])
    for left, sign, right, result in re.findall(r"(?:^| )(\d+)([-+*/])(\d+)=(\w+)", puzzle.thought, re.MULTILINE):
        value = exact(f"{left}{sign}{right}")
        assert value > 99 if result == "big" else value == int(result)
    for result, expression in re.findall(r" (\d+):(\S+)", puzzle.thought):
        assert exact(expression) == int(result)
    for line in lines:
        if line.endswith((" no", " yes")):
            assert (str(target) in re.findall(r"=(\d+)", line)) == line.endswith("yes")
    assert lines[-1].endswith("yes") and not any(line.endswith("yes") for line in lines[:-1])
    assert len(lines) <= 18


def test_a_wrong_turn_is_written_out() -> None:
    thought, answer = countdown.search([4, 6, 2], 20)
    assert exact(answer) == 20 and thought.startswith("4 6 2 to 20\n")
    rng = random.Random(0)
    assert any(" no\nback " in countdown.pose(rng, 5).thought for _ in range(20))


def test_twenty_four_is_often_the_target() -> None:
    rng = random.Random(0)
    targets = [countdown.pose(rng, 6).thought.split("\n")[0].split(" to ")[1] for _ in range(200)]
    assert 40 < targets.count("24") < 90
