"""Boolean expressions: and, or, not and brackets over named values, or over true and false themselves.

In: a generator of random numbers and a difficulty (2 to 7 operands). Out: a puzzle answered by true or false.
The thought reads the expression from the left, a line an operand: what is still open, with T and F for what is known,
then one step of working out after each arrow. Every two operands stand in brackets, so no precedence is needed.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation

_LETTERS = "bcdghjkmpqrsuwxyz"  # none that begins and, or, not, true, false
_PROMPTS = (
    "{facts}What is {expression}? Answer true or false.",
    "{facts}Is this true or false: {expression}",
    "{facts}Work out: {expression}. Say true or false.",
    "{facts}Evaluate {expression}. Answer with true or false alone.",
    "{facts}What is the value of {expression}? (true or false)",
    "{facts}true or false? {expression}",
)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws an expression, or two short ones."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws an expression; as `and` and `or` are equally likely, so are the answers."""
    count = (6 * difficulty + 14) // 10
    values = [rng.choice("TF") for _ in range(count)]
    if count <= 3 and rng.random() < 0.4:  # in a longer one nothing would say where one is
        names = [word(value) for value in values]
        facts = ""
    else:
        names = rng.sample(_LETTERS, count)
        style = rng.choice(("{} = {}", "{} is {}", "{}={}"))
        told = [style.format(name, word(value)) for name, value in zip(names, values, strict=True)]
        facts = ", ".join(told) + rng.choice((". ", ".\n"))
    tokens = _tree(rng, names)
    thought, result = work_out(tokens, dict(zip(names, values, strict=True)))
    prompt = rng.choice(_PROMPTS).format(facts=facts, expression=_joined(tokens))
    return Puzzle(prompt=prompt, thought=thought, answer=word(result))


def work_out(tokens: list[str], values: dict[str, str]) -> tuple[str, str]:
    """The thought for the tokens of an expression, and its value, "T" or "F"."""
    lines: list[str] = []
    stack: list[str] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        place += 1
        if token not in values:
            stack.append(token)
            continue
        stack.append(values[token])
        steps = [_joined(stack)]
        while len(stack) > 1 and stack[-2] != "(":
            if stack[-2] == "not":
                stack[-2:] = ["F" if stack[-1] == "T" else "T"]
            else:
                left, operator, right = stack[-3:]
                both, either = left == right == "T", "T" in (left, right)
                stack[-3:] = ["T" if (both if operator == "and" else either) else "F"]
            if len(stack) > 1 and stack[-2] == "(" and tokens[place] == ")":
                del stack[-2]
                place += 1
            steps.append(_joined(stack))
        lines.append(f"{token}: {'->'.join(steps)}")
    return "\n".join(lines), stack[0]


def word(value: str) -> str:
    """true for T, false for F."""
    return "true" if value == "T" else "false"


def _tree(rng: random.Random, names: list[str], outermost: bool = True) -> list[str]:
    """The tokens of a random expression over the names in their order; a pair has brackets unless it is all."""
    negated = rng.random() < (0.35 if len(names) == 1 else 0.2)
    if len(names) == 1:
        tokens = list(names)
    else:
        cut = rng.randint(1, len(names) - 1)
        left, right = (_tree(rng, part, outermost=False) for part in (names[:cut], names[cut:]))
        tokens = [*left, rng.choice(("and", "or")), *right]
        if negated or not outermost:
            tokens = ["(", *tokens, ")"]
    return ["not", *tokens] if negated else tokens


def _joined(tokens: list[str]) -> str:
    return " ".join(tokens).replace("( ", "(").replace(" )", ")")


FAMILY = Family(name="logic_boolean", sample=sample, verify=matches)
