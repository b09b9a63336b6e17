"""Columns right for all carries; prompts and short sums say the truth."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import addition

numbers = st.integers(0, 10**6 - 1)
LINE = re.compile(r"(\d)\+(\d)(\+1)?=(\d{1,2}) (\d+)")


def check(a: int, b: int) -> None:
    rows = []
    for line in addition.columns(a, b).splitlines():
        row = LINE.fullmatch(line)
        assert row, line
        rows.append(row)
    width = max(len(str(a)), len(str(b)))
    assert len(rows) == width
    assert "".join(row[1] for row in reversed(rows)) == str(a).zfill(width)
    assert "".join(row[2] for row in reversed(rows)) == str(b).zfill(width)
    assert not rows[0][3]
    for row in rows:
        assert int(row[1]) + int(row[2]) + bool(row[3]) == int(row[4])
    for right, left in pairwise(rows):
        assert bool(left[3]) == (int(right[4]) >= 10)  # the carry goes over
        assert left[5].endswith(right[5])
    for place, row in enumerate(rows[:-1]):
        assert row[5] == str(a + b).zfill(place + 1)[-place - 1 :]
    assert rows[-1][5] == str(a + b)


def test_the_example_of_the_format() -> None:
    assert addition.columns(478, 256) == "8+6=14 4\n7+5+1=13 34\n4+2+1=7 734"
    assert addition.columns(0, 0) == "0+0=0 0"
    assert addition.columns(5, 995) == "5+5=10 0\n0+9+1=10 00\n0+9+1=10 1000"


def test_every_pair_of_two_digit_numbers() -> None:
    for a, b in product(range(100), repeat=2):
        check(a, b)


@given(a=numbers, b=numbers)
def test_columns(a: int, b: int) -> None:
    check(a, b)


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_sums_are_right(seed: int, difficulty: int) -> None:
    raw = addition.sample_sum(random.Random(seed), difficulty).raw
    found = re.fullmatch(r"(\d{1,2})(?: \+ |\+)(\d{1,2})(?: = |=)(\d+)", raw or "")
    assert found and int(found[1]) + int(found[2]) == int(found[3])


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_samples_are_right(seed: int, difficulty: int) -> None:
    example = addition.sample(random.Random(seed), difficulty)
    assert example.turns
    for turn in example.turns:
        digits = re.findall(r"\d+", example.messages[turn - 1]["content"])
        assert len(digits) == 2 and all(len(text) <= min(difficulty, 6) for text in digits)
        a, b = map(int, digits)
        assert example.messages[turn]["content"] == str(a + b)
        assert example.messages[turn]["reasoning_content"] == addition.columns(a, b)


def test_long_operands_are_common() -> None:
    rng = random.Random(0)
    lengths = Counter(len(str(addition.operand(rng, 4))) for _ in range(4000))
    assert sorted(lengths, key=lengths.__getitem__) == [1, 2, 3, 4]
    assert {addition.operand(rng, 1) for _ in range(500)} == set(range(10))


def test_some_have_two_problems() -> None:
    rng = random.Random(0)
    examples = [addition.sample(rng, 4) for _ in range(3000)]
    assert 0.17 < sum(len(example.turns) == 2 for example in examples) / 3000 < 0.23
