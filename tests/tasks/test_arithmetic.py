"""Subtraction, multiplication, division, comparison and chains: every line of every thought is true."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import arithmetic
from minimax_m1.tasks.arithmetic import FAMILY
from minimax_m1.tasks.example import Reply, draw, prompt_of, reference_of
from minimax_m1.tasks.job import Job
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)
numbers = st.integers(0, 10**6 - 1)
JOBS = {job.name: job for job in arithmetic.JOBS}


def total(chain: str) -> int:
    """The sum of "7 + 2 - 5"."""
    return sum(int(part) for part in chain.replace("- ", "-").replace("+ ", "").split())


ANSWERS: dict[str, Callable[..., str]] = {
    "subtract": lambda a, b: str(a - b),
    "multiply": lambda a, b: str(a * b),
    "larger": lambda a, b: str(max(a, b)),
    "smaller": lambda a, b: str(min(a, b)),
    "is larger": lambda a, b: "yes" if a > b else "no",
    "chain": lambda chain: str(total(chain)),
    "divide": lambda a, b: "{} remainder {}".format(*divmod(a, b)),
}


def true(line: str) -> bool:
    """Whether all equations and comparisons of a line of a thought hold; 12-7=5 and 4<7 and 4*6=24+1=25."""
    claims = re.findall(r"\d+(?:[-+*/]\d+)*(?:[=<>]\d+(?:[-+*/]\d+)*)+", line)
    return all(holds(claim) for claim in claims)


def holds(claim: str) -> bool:
    sides = re.split("([=<>])", claim)
    values = [value(side) for side in sides[::2]]
    compare = {"=": int.__eq__, "<": int.__lt__, ">": int.__gt__}
    return all(compare[sign](left, right) for left, sign, right in zip(values, sides[1::2], values[1:], strict=False))


def value(text: str) -> int:
    first, *rest = re.split(r"([-+*/])", text)
    result = int(first)
    for sign, number in zip(rest[::2], map(int, rest[1::2]), strict=True):
        result = {"+": result + number, "-": result - number, "*": result * number}.get(sign, result // (number or 1))
    return result


def test_the_judge_of_lines_knows_right_from_wrong() -> None:
    assert (
        true("3-8 13-8=5 65") and true("4*6=24 24+4=28 282") and true("47/6=7 7*6=42 47-42=5 7") and true("digits 3>2")
    )
    assert not true("13-8=6 65") and not true("4*6=24 24+4=27 282") and not true("digits 3<2") and not true("47/6=8")


@pytest.mark.parametrize("name", sorted(JOBS))
@given(seed=seeds, difficulty=difficulties)
def test_answers_are_right_and_every_line_is_true(name: str, seed: int, difficulty: int) -> None:
    arguments = JOBS[name].draw(random.Random(seed), max(difficulty, JOBS[name].least))
    thought, answer = JOBS[name].solve(**arguments)
    assert answer == ANSWERS[name](**arguments)
    assert all(map(true, thought.splitlines())), thought


@given(a=numbers, b=numbers)
def test_differences_are_worked_out_column_by_column(a: int, b: int) -> None:
    a, b = max(a, b), min(a, b)
    lines = arithmetic.borrowing(a, b).splitlines()
    borrow = 0
    for place, line in enumerate(lines[: len(str(a))]):
        found = re.fullmatch(r"(\d)-(\d)(-1)?( 1\1-\2(?:-1)?)?=(\d) (\d+)", line)
        assert found, line
        assert int(found[1]) == a // 10**place % 10 and int(found[2]) == b // 10**place % 10
        assert bool(found[3]) == bool(borrow)
        borrow = int(bool(found[4]))
        assert int(found[1]) - int(found[2]) - bool(found[3]) + 10 * borrow == int(found[5])
        assert found[6] == str((a - b) % 10 ** (place + 1)).zfill(place + 1)
    assert not borrow
    assert lines[len(str(a)) :] == (
        [f"{str(a - b).zfill(len(str(a)))}={a - b}"] if len(str(a - b)) < len(str(a)) else []
    )


def test_every_small_problem() -> None:
    for a, b in product(range(100), repeat=2):
        assert arithmetic.subtract(a, b)[1] == str(a - b)
        assert arithmetic.multiply(a, b)[1] == str(a * b)
        assert arithmetic.compared(a, b)[1] == ("<" if a < b else ">" if a > b else "=")
        if 0 < b < 10:
            assert arithmetic.divide(a, b)[1] == f"{a // b} remainder {a % b}"


def test_thoughts_as_they_read() -> None:
    assert arithmetic.subtract(423, 58) == (
        "423 58\ndigits 3>2\n423-58\n3-8 13-8=5 5\n2-5-1 12-5-1=6 65\n4-0-1=3 365",
        "365",
    )
    assert arithmetic.subtract(12, 19) == ("12 19\ndigits 2=2\n1=1\n2<9\n-(19-12)\n9-2=7 7\n1-1=0 07\n07=7", "-7")
    assert arithmetic.subtract(5, 5) == ("5 5\ndigits 1=1\n5=5\n5-5\n5-5=0 0", "0")
    assert arithmetic.multiply(6, 47) == ("47*6\n7*6=42 2\n4*6=24 24+4=28 282", "282")
    assert arithmetic.multiply(47, 36) == (
        "47*6\n7*6=42 2\n4*6=24 24+4=28 282\n47*3\n7*3=21 1\n4*3=12 12+2=14 141\n"
        "282+1410\n2+0=2 2\n8+1=9 92\n2+4=6 692\n0+1=1 1692",
        "1692",
    )
    assert arithmetic.divide(473, 6) == (
        "473/6\n4/6=0 0*6=0 4-0=4 0 left 73\n47/6=7 7*6=42 47-42=5 7 left 3\n53/6=8 8*6=48 53-48=5 78",
        "78 remainder 5",
    )
    assert arithmetic.larger(482, 479) == ("482 479\ndigits 3=3\n4=4\n8>7\nso 482>479", "482")
    assert arithmetic.chain("7 + 8 - 9") == ("7+8\n7+8=15 15\n15-9\n5-9 15-9=6 6\n1-0-1=0 06\n06=6", "6")


@pytest.mark.parametrize("name", sorted(JOBS))
def test_numbers_grow_with_difficulty(name: str) -> None:
    def size(difficulty: int) -> int:
        rng = random.Random(0)
        return sum(len(str(JOBS[name].draw(rng, difficulty))) for _ in range(300))

    sizes = [size(difficulty) for difficulty in range(JOBS[name].least, 11)]
    assert all(more >= 0.98 * less for less, more in pairwise(sizes)), sizes
    assert sizes[-1] > sizes[0] + 300


def test_results_below_zero_come_from_difficulty_5_on() -> None:
    rng = random.Random(0)

    def signs(difficulty: int) -> set[bool]:
        drawn = [JOBS["subtract"].draw(rng, difficulty) for _ in range(500)]
        return {problem["a"] < problem["b"] for problem in drawn}

    assert signs(4) == {False} and signs(5) == {False, True}


@given(seed=seeds, difficulty=st.integers(2, 10))
def test_no_chain_falls_below_zero(seed: int, difficulty: int) -> None:
    chain = JOBS["chain"].draw(random.Random(seed), difficulty)["chain"]
    parts = chain.split()
    assert len(parts) >= 5
    assert all(total(" ".join(parts[:stop])) >= 0 for stop in range(1, len(parts) + 1, 2))


@pytest.mark.parametrize("job", arithmetic.JOBS, ids=lambda job: job.name)
def test_every_phrasing_says_all_that_is_needed(job: Job) -> None:
    arguments: dict[str, Any] = dict(job.draw(random.Random(0), 5))
    assert len(job.prompts) >= 5 and len(set(job.prompts)) == len(job.prompts)
    for prompt in job.prompts:
        assert all("{" + name + "}" in prompt for name in arguments), prompt


@given(seed=seeds, difficulty=difficulties)
def test_the_reference_is_right_and_everything_else_is_wrong(seed: int, difficulty: int) -> None:
    example = FAMILY.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        answer = reference.content
        assert FAMILY.verify(example, turn, reference)
        assert FAMILY.verify(example, turn, Reply(content=f"\n {answer} "))
        asked = prompt_of(example, turn)[-1]["content"]
        wrong = {"", answer + ".", answer[:-1], answer + "0", "0" + answer, "+" + answer, f"{answer}.0", asked}
        wrong |= {answer.title(), answer.replace("remainder", "r"), answer.replace(" ", ""), f"It is {answer}"}
        wrong |= {answer.replace("-", "\u2212"), answer.lstrip("-") if answer[0] == "-" else "-" + answer}
        wrong |= {str(int(answer) + step) for step in (-1, 1)} if answer.lstrip("-").isdecimal() else {"maybe"}
        for content in wrong - {answer}:
            assert not FAMILY.verify(example, turn, Reply(content=content)), content
        assert not FAMILY.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(text=st.text())
def test_junk_is_wrong_and_raises_nothing(text: str) -> None:
    example = FAMILY.sample(random.Random(7), 10)
    for junk in (text, "(" * 100_000, "9" * 100_000, "\ud800\x00", "\u0663"):
        assert not FAMILY.verify(example, example.turns[0], Reply(reasoning=junk, content=junk))


@given(seed=seeds, difficulty=difficulties)
def test_a_seed_tells_the_example(seed: int, difficulty: int) -> None:
    first, again = (draw(FAMILY, random.Random(seed), difficulty, "test") for _ in range(2))
    assert first == again and first.family == "arithmetic" and first.difficulty == difficulty


def test_size_grows_with_difficulty_up_to_800_tokens() -> None:
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    sizes = []
    for difficulty in (1, 4, 7, 10):
        rng = random.Random(difficulty)
        texts = []
        for _ in range(200):
            messages = FAMILY.sample(rng, difficulty).messages
            texts.append("".join(message.get("reasoning_content", "") + message["content"] for message in messages))
        assert all(len(tokenizer.encode(text)) <= 800 for text in texts if len(text) > 800)
        sizes.append(sum(map(len, texts)))
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0], sizes


def test_a_fifth_has_two_problems_and_all_kinds_come() -> None:
    rng = random.Random(0)
    examples = [FAMILY.sample(rng, 8) for _ in range(3000)]
    assert 0.17 < sum(len(example.turns) == 2 for example in examples) / 3000 < 0.23
    answers = [reference_of(example, turn).content for example in examples for turn in example.turns]
    assert {"yes", "no"} <= set(answers) and any("remainder" in answer for answer in answers)
    assert any(answer.startswith("-") for answer in answers)
