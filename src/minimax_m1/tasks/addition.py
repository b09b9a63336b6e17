"""Addition of two natural numbers, written out column by column as one does on paper.

In: a generator of random numbers and a difficulty, the most digits of an operand (at most 6). Out: conversations
whose thought adds the columns from the right and whose content is the sum; in some, two problems follow
each other. The family `sums` has plain documents instead, such as "2 + 2 = 4", with operands up to 2 digits.
"""

from __future__ import annotations

import random
from itertools import zip_longest

from minimax_m1.tasks.example import Example, Family, Message, assistant, matches, user, with_system

MOST_DIGITS = 6

_PROMPTS = (
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "{a}+{b}=",
    "{a} + {b} = ?",
    "{a} plus {b}",
    "What is {a} + {b}?",
    "What is {a}+{b}?",
    "what is {a} + {b}",
    "What is {a} plus {b}?",
    "Add {a} and {b}.",
    "add {a} and {b}",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "How much is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Compute {a} plus {b}.",
    "compute {a} + {b}",
    "Please add {a} to {b}.",
    "Can you add {a} and {b}?",
)


def columns(a: int, b: int) -> str:
    """The thought: one line a column from the right, "digit+digit[+1]=sum result so far".

    A missing digit is 0; the last column's sum is written whole, so that the last line ends with a + b.
    """
    pairs = list(zip_longest(reversed(str(a)), reversed(str(b)), fillvalue="0"))
    lines, carry, result = [], 0, ""
    for place, (left, right) in enumerate(pairs):
        total = int(left) + int(right) + carry
        result = (str(total) if place == len(pairs) - 1 else str(total % 10)) + result
        lines.append(f"{left}+{right}{'+1' * carry}={total} {result}")
        carry = total // 10
    return "\n".join(lines)


def exchange(a: int, b: int, rng: random.Random) -> list[Message]:
    """A question for a + b and its reference reply."""
    return [user(rng.choice(_PROMPTS).format(a=a, b=b)), assistant(str(a + b), columns(a, b))]


def operand(rng: random.Random, digits: int) -> int:
    """A number of 1 to `digits` digits, longer ones likelier, uniform within its length."""
    length = rng.choices(range(1, digits + 1), range(1, digits + 1))[0]
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a problem with operands of at most min(difficulty, 6) digits, or two problems."""
    digits = min(difficulty, MOST_DIGITS)
    messages: list[Message] = []
    for _ in range(2 if rng.random() < 0.2 else 1):
        messages += exchange(operand(rng, digits), operand(rng, digits), rng)
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.1 else example


def sample_sum(rng: random.Random, difficulty: int) -> Example:
    """Draws a raw document: a short sum with its answer and no thought."""
    a, b = (operand(rng, min(difficulty, 2)) for _ in range(2))
    style = rng.choice(("{a} + {b} = {c}", "{a}+{b}={c}"))
    return Example(family=SUMS.name, difficulty=difficulty, raw=style.format(a=a, b=b, c=a + b))


FAMILY = Family(name="addition", sample=sample, verify=matches)
SUMS = Family(name="sums", sample=sample_sum, verify=matches)
