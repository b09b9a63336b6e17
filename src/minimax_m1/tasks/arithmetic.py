"""Subtraction, multiplication, comparison, chains of + and -, and division with remainder, worked out on paper.

In: a generator of random numbers and a difficulty, which sets the number of digits. Out: conversations whose thought
goes column by column, each with the result so far, and whose content is the result alone.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.addition import MOST_DIGITS, columns, operand
from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.job import Arguments, Job, Solved, converse


def compared(a: int, b: int) -> tuple[str, str]:
    """Lines that end with the first difference, and its sign (<, = or >): how many digits, then digit by digit."""
    left, right = str(a), str(b)
    lines = [f"digits {len(left)}{_sign(len(left), len(right))}{len(right)}"]
    if len(left) == len(right):
        for one, other in zip(left, right, strict=True):
            lines.append(f"{one}{_sign(int(one), int(other))}{other}")
            if one != other:
                break
    return "\n".join(lines), _sign(a, b)


def _sign(a: int, b: int) -> str:
    return "<" if a < b else "=" if a == b else ">"


def borrowing(a: int, b: int) -> str:
    """The columns of a - b from the right, for a >= b; the result so far keeps its zeros until the last line.

    A column is "digit-digit[-1]", and again with 10 more where that would be negative: then the next has -1.
    """
    assert a >= b, f"{a} < {b}"
    lines, borrow, result = [], 0, ""
    for top, bottom in zip(reversed(str(a)), reversed(str(b).zfill(len(str(a)))), strict=True):
        column = f"-{bottom}{'-1' * borrow}"
        digit = int(top) - int(bottom) - borrow
        borrow = int(digit < 0)
        again = f" 1{top}{column}" if borrow else ""
        result = f"{digit % 10}{result}"
        lines.append(f"{top}{column}{again}={digit % 10} {result}")
    if result != str(a - b):
        lines.append(f"{result}={a - b}")
    return "\n".join(lines)


def subtract(a: int, b: int) -> Solved:
    """a - b; where b is larger, b - a with a minus."""
    lines, sign = compared(a, b)
    swapped = sign == "<"
    head = f"-({b}-{a})" if swapped else f"{a}-{b}"
    return f"{a} {b}\n{lines}\n{head}\n{borrowing(max(a, b), min(a, b))}", str(a - b)


def times_digit(a: int, digit: int) -> str:
    """The columns of a * digit from the right: "digit*digit=product[ product+carry=sum] result so far"."""
    lines, carry, result = [], 0, ""
    places = str(a)[::-1]
    for place, top in enumerate(places, 1):
        product = int(top) * digit
        total = product + carry
        result = f"{total if place == len(places) else total % 10}{result}"
        lines.append(f"{top}*{digit}={product}{f' {product}+{carry}={total}' if carry else ''} {result}")
        carry = total // 10
    return "\n".join(lines)


def multiply(a: int, b: int) -> Solved:
    """a * b, of which the one with fewer digits has at most 2: a partial product for each, then their sum."""
    a, b = (b, a) if len(str(a)) < len(str(b)) else (a, b)
    assert b < 100, f"{b} has more than two digits"
    if b < 10:
        return f"{a}*{b}\n{times_digit(a, b)}", str(a * b)
    tens, ones = divmod(b, 10)
    high, low = a * tens * 10, a * ones
    lines = [f"{a}*{ones}", times_digit(a, ones), f"{a}*{tens}", times_digit(a, tens), f"{low}+{high}"]
    return "\n".join([*lines, columns(low, high)]), str(a * b)


def divide(a: int, b: int) -> Solved:
    """a / b for b of one digit: digit by digit "part/b=digit product rest quotient so far, digits left"."""
    assert 0 < b < 10, f"{b} is no divisor of one digit"
    digits, lines, rest, quotient = str(a), [f"{a}/{b}"], 0, ""
    for place, digit in enumerate(digits, 1):
        part = rest * 10 + int(digit)
        here = part // b
        rest = part - here * b
        quotient = f"{quotient}{here}".lstrip("0") or "0"
        left = f" left {digits[place:]}" if place < len(digits) else ""
        lines.append(f"{part}/{b}={here} {here}*{b}={here * b} {part}-{here * b}={rest} {quotient}{left}")
    return "\n".join(lines), f"{quotient} remainder {rest}"


def larger(a: int, b: int) -> Solved:
    lines, sign = compared(a, b)
    return f"{a} {b}\n{lines}\nso {a}{sign}{b}", str(max(a, b))


def smaller(a: int, b: int) -> Solved:
    lines, sign = compared(a, b)
    return f"{a} {b}\n{lines}\nso {a}{sign}{b}", str(min(a, b))


def is_larger(a: int, b: int) -> Solved:
    lines, sign = compared(a, b)
    return f"{a} {b}\n{lines}\nso {a}{sign}{b}", "yes" if a > b else "no"


def chain(chain: str) -> Solved:
    """A chain such as "7 + 2 - 5", from the left; no result on the way is negative."""
    first, *rest = chain.split()
    value, lines = int(first), list[str]()
    for sign, text in zip(rest[::2], rest[1::2], strict=True):
        number = int(text)
        lines += [f"{value}{sign}{number}", columns(value, number) if sign == "+" else borrowing(value, number)]
        value = value + number if sign == "+" else value - number
    return "\n".join(lines), str(value)


def _exact(rng: random.Random, digits: int) -> int:
    """A number of exactly this many digits; one of one digit may be 0."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _subtraction(rng: random.Random, difficulty: int) -> Arguments:
    a, b = (operand(rng, min(difficulty, MOST_DIGITS)) for _ in range(2))
    if a < b and (difficulty < 5 or rng.random() < 0.5):
        a, b = b, a
    return {"a": a, "b": b}


def _product(rng: random.Random, difficulty: int) -> Arguments:
    """1 x 1 digits at difficulty 1, 2 x 1 up to 4, 3 x 1 at 5, 2 x 2 at 6 and 7, 3 x 2 beyond; smaller ones too."""
    step = rng.randint(max(1, difficulty - 4), difficulty)
    most_a, most_b = (1 if step < 2 else 3 if step == 5 or step > 7 else 2), (2 if step > 5 else 1)
    a, b = _exact(rng, most_a), _exact(rng, most_b)
    return {"a": b, "b": a} if rng.random() < 0.3 else {"a": a, "b": b}


def _pair(rng: random.Random, difficulty: int) -> Arguments:
    """Two different numbers, which begin alike in half of the cases."""
    digits = min(1 + difficulty // 2, MOST_DIGITS)
    a, b = operand(rng, digits), operand(rng, digits)
    if a > 9 and rng.random() < 0.5:
        same = rng.randint(1, len(str(a)) - 1)
        b = int(str(a)[:same] + "".join(rng.choice("0123456789") for _ in str(a)[same:]))
    return {"a": a, "b": b if a != b else a + 1}


def _chain(rng: random.Random, difficulty: int) -> Arguments:
    """3 terms of 1 digit at first, 4 of up to 3 digits at difficulty 10."""
    digits = 1 if difficulty < 4 else 2 if difficulty < 8 else 3
    value = operand(rng, digits)
    text = str(value)
    for _ in range(2 if difficulty < 6 else 3):
        number = operand(rng, digits)
        sign = "-" if number <= value and rng.random() < 0.6 else "+"
        value += number if sign == "+" else -number
        text += f" {sign} {number}"
    return {"chain": text}


def _division(rng: random.Random, difficulty: int) -> Arguments:
    """2 digits at difficulty 4, up to 5 at 10."""
    return {"a": operand(rng, difficulty // 2), "b": rng.randint(2, 9)}


JOBS = (
    Job(
        name="subtract",
        weight=3,
        draw=_subtraction,
        solve=subtract,
        prompts=(
            "{a} - {b}",
            "{a}-{b}",
            "{a} - {b} =",
            "{a} minus {b}",
            "What is {a} - {b}?",
            "What is {a} minus {b}?",
            "Calculate {a} - {b}.",
            "Subtract {b} from {a}.",
            "How much is {a} minus {b}?",
            "Take {b} away from {a}.",
        ),
    ),
    Job(
        name="multiply",
        weight=3,
        draw=_product,
        solve=multiply,
        prompts=(
            "{a} * {b}",
            "{a}*{b}",
            "{a} x {b} =",
            "{a} times {b}",
            "What is {a} * {b}?",
            "What is {a} times {b}?",
            "Calculate {a} * {b}.",
            "Multiply {a} by {b}.",
            "How much is {a} times {b}?",
            "What is the product of {a} and {b}?",
        ),
    ),
    Job(
        name="larger",
        draw=_pair,
        solve=larger,
        prompts=(
            "Which is larger, {a} or {b}?",
            "Which number is larger: {a} or {b}?",
            "Which is more, {a} or {b}?",
            "What is bigger, {a} or {b}?",
            "Give me the larger one of {a} and {b}.",
        ),
    ),
    Job(
        name="smaller",
        draw=_pair,
        solve=smaller,
        prompts=(
            "Which is smaller, {a} or {b}?",
            "Which number is smaller: {a} or {b}?",
            "Which is less, {a} or {b}?",
            "What is smaller, {a} or {b}?",
            "Give me the smaller one of {a} and {b}.",
        ),
    ),
    Job(
        name="is larger",
        draw=_pair,
        solve=is_larger,
        prompts=(
            "Is {a} larger than {b}? Say yes or no.",
            "Is {a} more than {b}? Answer yes or no.",
            "Is {a} > {b}? yes or no",
            "Yes or no: {a} is larger than {b}.",
            "Is {a} bigger than {b}, yes or no?",
        ),
    ),
    Job(
        name="chain",
        weight=2,
        least=2,
        draw=_chain,
        solve=chain,
        prompts=(
            "{chain}",
            "{chain} =",
            "What is {chain}?",
            "Calculate {chain}.",
            "How much is {chain}?",
            "Work out {chain}.",
        ),
    ),
    Job(
        name="divide",
        weight=2,
        least=4,
        draw=_division,
        solve=divide,
        prompts=(
            "Divide {a} by {b}. Write q remainder r.",
            "What is {a} divided by {b}? Write it as q remainder r.",
            "What is {a} / {b}? Answer with q remainder r.",
            "{a} / {b} as q remainder r",
            "Calculate {a} / {b} and write it as q remainder r.",
            "How many times does {b} go into {a}? Write q remainder r.",
        ),
    ),
)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws one problem, or two."""
    return converse(FAMILY.name, JOBS, rng, difficulty)


FAMILY = Family(name="arithmetic", sample=sample, verify=matches)
