"""Countdown: make a number from two to four given ones, each used exactly once; sometimes the number is 24.

In: a generator of random numbers and a difficulty. Out: a puzzle answered by any expression that does it.
The thought is a search with its failures written out: two numbers are joined, "4+6=10 10:(4+6)", the rest is written
again, and of the last two numbers each operation is tried. Which wrong turns it takes is fixed by the numbers, and how
many is bounded; so the search knows more than it says, and is no full search.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from minimax_m1.tasks.example import Example, Family, Reply, reference_of
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation

_LARGEST = 99  # of what the thought computes
_LONGEST = 100  # characters of an answer that is read at all
_PROMPTS = (
    "Make {target} from {numbers}. Use each number once, with + - * /. Answer with the expression alone.",
    "Use the numbers {numbers} once each to make {target}. Write only the expression, with + - * / and brackets.",
    "Numbers: {numbers}. Target: {target}. Use all of them once. Give the expression alone.",
    "How can you get {target} from {numbers}? Use every number exactly once; write just the expression.",
    "Countdown: reach {target} with {numbers}, each used once. Answer with the expression alone.",
    "With {numbers} make {target}: all numbers once, + - * / allowed. Only the expression, please.",
)
_TOKEN = re.compile(r" *([0-9]+|[-+*/()])")

Step = tuple[int, str, int, int]  # larger number, sign, smaller number, result


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws numbers and a target, or two easier puzzles."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws numbers and a target that they reach."""
    count = 2 if difficulty < 3 else 3 if difficulty < 7 else 4
    largest = (10, 12, 5, 7, 9, 12, 5, 7, 9, 12)[difficulty - 1]
    twenty_four = count > 2 and rng.random() < 0.3
    while True:
        numbers = [rng.randint(1, largest) for _ in range(count)]
        target = 24 if twenty_four else _reached(rng, numbers)
        if target > 0 and reach(numbers, target):
            listed = rng.choice((", ", " ")).join(map(str, numbers))
            prompt = rng.choice(_PROMPTS).format(target=target, numbers=listed)
            thought, answer = search(numbers, target)
            return Puzzle(prompt=prompt, thought=thought, answer=answer)


def steps(numbers: list[int]) -> Iterator[tuple[Step, list[int]]]:
    """Every way to join two numbers, with what is left then; the result is first.

    A result is whole, from 1 to 99, and no number that is left, so that the thought can call it by its value.
    """
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            large, small = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
            for sign, result in _results(large, small):
                if 0 < result <= _LARGEST and result not in rest:
                    yield (large, sign, small, result), [result, *rest]


def reach(numbers: list[int], target: int) -> bool:
    """Whether steps lead from the numbers to the target."""
    if len(numbers) == 2:
        return any(result == target for _, result in _results(max(numbers), min(numbers)))
    return any(reach(left, target) for _, left in steps(numbers))


def search(numbers: list[int], target: int) -> tuple[str, str]:
    """The thought and the expression; the numbers must reach the target."""
    rng = random.Random(f"{numbers} {target}")  # the same puzzle has the same thought
    lines = [f"{_listed(numbers)} to {target}"]
    expressions: dict[int, str] = {}
    while len(numbers) > 2:
        ways = list(steps(numbers))
        rng.shuffle(ways)
        wrong = [(step, left) for step, left in ways if not reach(left, target)]
        for step, left in wrong[: rng.randint(0, 3 if len(numbers) == 3 else 1)]:
            tried = dict(expressions)
            lines.append(_take(step, left, tried))
            if len(left) > 2:
                step, left = next(iter(steps(left)))
                lines.append(_take(step, left, tried))
            lines += [_last(left, target)[0], f"back {_listed(numbers)}"]
        step, left = next(way for way in ways if reach(way[1], target))
        lines.append(_take(step, left, expressions))
        numbers = left
    line, sign = _last(numbers, target)
    large, small = (expressions.get(number, str(number)) for number in (max(numbers), min(numbers)))
    return "\n".join([*lines, line]), f"{large}{sign}{small}"


def value_of(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression of whole numbers, + - * / and brackets, and its numbers; None if it is none.

    Spaces may stand between its parts; there are no signs before a number and no leading zeros.
    """
    if len(text) > _LONGEST:
        return None
    parts: list[str] = []
    place = 0
    while place < len(text):
        part = _TOKEN.match(text, place)
        if not part or (part[1][0] == "0" and len(part[1]) > 1):
            return None
        parts.append(part[1])
        place = part.end()
    numbers = [int(part) for part in parts if part.isdigit()]
    try:
        value = _sum(parts)
    except (IndexError, ZeroDivisionError):  # the text ends too early, or divides by nothing
        return None
    return None if value is None or parts else (value, numbers)


def verify(example: Example, turn: int, reply: Reply) -> bool:
    """True for an expression with the numbers and the value of the reference."""
    return not reply.tool_calls and accepts(reference_of(example, turn).content, reply.content.strip())


def accepts(reference: str, answer: str) -> bool:
    """Whether two expressions have the same numbers and the same value."""
    wanted, given = value_of(reference), value_of(answer)
    assert wanted is not None, f"the reference {reference} is no expression"
    return given is not None and given[0] == wanted[0] and sorted(given[1]) == sorted(wanted[1])


def _sum(parts: list[str]) -> Fraction | None:
    """Reads products joined by + and - off the front of the parts; None where something else stands."""
    value = _product(parts)
    while value is not None and parts and parts[0] in "+-":
        sign = parts.pop(0)
        other = _product(parts)
        value = None if other is None else value + other if sign == "+" else value - other
    return value


def _product(parts: list[str]) -> Fraction | None:
    value = _factor(parts)
    while value is not None and parts and parts[0] in "*/":
        sign = parts.pop(0)
        other = _factor(parts)
        value = None if other is None else value * other if sign == "*" else value / other
    return value


def _factor(parts: list[str]) -> Fraction | None:
    part = parts.pop(0)
    if part.isdigit():
        return Fraction(int(part))
    if part != "(":
        return None
    value = _sum(parts)
    return value if parts.pop(0) == ")" else None


def _results(large: int, small: int) -> list[tuple[str, int]]:
    results = [("+", large + small), ("-", large - small), ("*", large * small)]
    return [*results, ("/", large // small)] if small > 1 and large % small == 0 else results


def _reached(rng: random.Random, numbers: list[int]) -> int:
    """What random steps lead to; 0 where there is no way on."""
    while len(numbers) > 1:
        ways = list(steps(numbers))
        if not ways:
            return 0
        numbers = rng.choice(ways)[1]
    return numbers[0]


def _take(step: Step, left: list[int], expressions: dict[int, str]) -> str:
    """The line for a step; the expression of its result is added."""
    large, sign, small, result = step
    parts = (expressions.get(large, str(large)), sign, expressions.get(small, str(small)))
    expressions[result] = f"({''.join(parts)})"
    return f"{large}{sign}{small}={result} {result}:{expressions[result]} left {_listed(left)}"


def _last(numbers: list[int], target: int) -> tuple[str, str]:
    """The line that tries the last two numbers, and the sign that reaches the target or "".

    A product above 99 is only said to be big.
    """
    large, small = max(numbers), min(numbers)
    tried = []
    for sign, result in _results(large, small):
        tried.append(f"{large}{sign}{small}={result if result <= _LARGEST else 'big'}")
        if result == target:
            return f"{' '.join(tried)} yes", sign
    return f"{' '.join(tried)} no", ""


def _listed(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


FAMILY = Family(name="logic_countdown", sample=sample, verify=verify)
