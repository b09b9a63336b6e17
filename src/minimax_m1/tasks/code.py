"""What does a small program print: straight lines first, then if, for, while and lists, 2 to 20 executed steps.

In: a generator of random numbers and a difficulty. Out: conversations with a piece of Python; the thought is the
trace of `program.run`, one executed statement a line, the content what is printed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from minimax_m1.tasks.example import Example, Family, assistant, matches, user, with_system
from minimax_m1.tasks.program import Run, run

_NAMES = "abcdefghmnpqrstuvwxyz"
_COUNTERS = "ijk"
_INDENT = "  "
_PROMPTS = (
    "What does this program print?\n{source}",
    "What does this code print?\n{source}",
    "What is printed by this program?\n{source}",
    "Say what this program prints.\n{source}",
    "Run this in your head. What does it print?\n{source}",
    "Follow the program and say what it prints.\n{source}",
    "{source}\nWhat does it print?",
    "{source}\nWhat is the output?",
    "What does this Python code print?\n```\n{source}\n```",
)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """A program on its way: its lines, and the names that hold a number or a list."""

    rng: random.Random
    difficulty: int
    lines: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    lists: dict[str, int] = field(default_factory=dict)  # how many numbers each holds at least
    counters: int = 0

    def fresh(self) -> str:
        return self.rng.choice([name for name in _NAMES if name not in self.numbers and name not in self.lists])

    def constant(self) -> None:
        """x = 7"""
        name = self.fresh()
        self.numbers.append(name)
        self.lines.append(f"{name} = {self.rng.randint(0 if self.difficulty > 2 else 1, 9)}")

    def changed(self, but: str = "", reads: str = "") -> str:
        """A line that gives a name a new value; `but` keeps its own, `reads` may be read too."""
        rng = self.rng
        names = [name for name in self.numbers if name != but]
        name = rng.choice(names)
        sources = [*self.numbers, *([reads] * 3 if reads else [])]
        copied = [source for source in sources if source != name]
        if copied and rng.random() < 0.1:
            return f"{name} = {rng.choice(copied)}"
        left = name if rng.random() < 0.6 else rng.choice(sources)
        sign = rng.choice("++++---*" if self.difficulty > 1 else "+++-")
        if sign == "*":
            return f"{name} = {left} * {rng.choice((2, 2, 3))}"
        others = [source for source in sources if source != left or sign == "+"]  # x - x would only be 0
        right = rng.choice(others) if others and rng.random() < 0.5 else str(rng.randint(1, 9))
        return f"{name} = {left} {sign} {right}"

    def derived(self) -> None:
        """x = x + y, or a new name for y - 3"""
        line = self.changed()
        if len(self.numbers) < 3 and self.rng.random() < 0.4:
            name = self.fresh()
            line = name + line[1:]
            self.numbers.append(name)
        self.lines.append(line)

    def condition(self) -> str:
        rng = self.rng
        right = rng.choice(self.numbers) if len(self.numbers) > 2 and rng.random() < 0.3 else str(rng.randint(1, 12))
        return f"{rng.choice([name for name in self.numbers if name != right])} {rng.choice('<>')} {right}"

    def decision(self, indent: str = "", reads: str = "", but: str = "") -> None:
        """if, with an else in most cases"""
        self.lines += [f"{indent}if {self.condition()}:", f"{indent}{_INDENT}{self.changed(but, reads)}"]
        if self.rng.random() < 0.7:
            self.lines += [f"{indent}else:", f"{indent}{_INDENT}{self.changed(but, reads)}"]

    def body(self, reads: str = "", but: str = "") -> None:
        if self.difficulty > 6 and self.rng.random() < 0.3:
            self.decision(_INDENT, reads, but)
            return
        for _ in range(self.rng.choice((1, 1, 2))):
            self.lines.append(_INDENT + self.changed(but, reads))

    def each(self, over: str) -> None:
        """for i in a range or a list"""
        counter = _COUNTERS[self.counters % len(_COUNTERS)]
        self.counters += 1
        self.lines.append(f"for {counter} in {over}:")
        self.body(reads=counter)

    def counted(self) -> None:
        """for i in range(3)"""
        start, count = self.rng.choice((0, 0, 1, 2)), self.rng.randint(2, 4)
        self.each(f"range({start}, {start + count})" if start else f"range({count})")

    def repeated(self) -> None:
        """while x < 9, with a step of x at the end of the body"""
        name, start, step = self.fresh(), self.rng.randint(0, 6), self.rng.randint(1, 4)
        self.numbers.append(name)
        up = self.rng.random() < 0.6
        start = start if up else start + 4
        self.lines.append(f"{name} = {start}")
        bound = start + self.rng.randint(1, 4) * step if up else self.rng.randint(0, start - 1)
        self.lines.append(f"while {name} {'<' if up else '>'} {bound}:")
        self.body(but=name)
        self.lines.append(f"{_INDENT}{name} = {name} {'+' if up else '-'} {step}")

    def listed(self) -> None:
        """a list, and something done with it"""
        rng = self.rng
        if rng.random() < 0.2:
            self.each(str(rng.sample(range(1, 10), rng.randint(2, 4))))
            return
        if not self.lists or (len(self.lists) < 2 and rng.random() < 0.3):
            name = self.fresh()
            numbers = rng.sample(range(1, 10), rng.randint(2, 4))
            self.lists[name] = len(numbers)
            self.lines.append(f"{name} = {numbers}")
        name = rng.choice(list(self.lists))
        kind = rng.random()
        if kind < 0.35:
            self.lists[name] += 1
            self.lines.append(f"{name}.append({rng.choice(self.numbers)})")
        elif kind < 0.7:
            self.lines.append(f"{rng.choice(self.numbers)} = {name}[{rng.randrange(self.lists[name])}]")
        else:
            self.each(name)

    def pieces(self) -> list[Callable[[], None]]:
        """What the difficulty allows, likelier things more than once."""
        allowed = [self.derived]
        allowed += [self.derived, self.decision] if self.difficulty > 2 else []
        allowed += [self.counted] if self.difficulty > 3 else []
        allowed += [self.repeated] if self.difficulty > 4 else []
        allowed += [self.listed] if self.difficulty > 5 else []
        return allowed

    def last(self) -> str:
        if self.lists and self.rng.random() < 0.2:
            return f"print({self.rng.choice(list(self.lists))})"
        count = 2 if len(self.numbers) > 1 and self.difficulty > 4 and self.rng.random() < 0.3 else 1
        return f"print({', '.join(self.rng.sample(self.numbers, count))})"


def write(rng: random.Random, difficulty: int) -> tuple[str, Run]:
    """A program of about 2 * difficulty executed steps and its run; numbers stay below 20, 50 or 100.

    They are never negative below difficulty 8, and then only results are.
    """
    least, most = max(2, 2 * difficulty - 1), min(2 * difficulty + (difficulty == 1), 20)
    highest, lowest = (20 if difficulty < 4 else 50 if difficulty < 7 else 99), (-20 if difficulty > 7 else 0)
    while True:
        writer = _Writer(rng=rng, difficulty=difficulty)
        for _ in range(1 if difficulty < 2 else rng.randint(2, 2 if difficulty < 6 else 3)):
            writer.constant()
        steps = rng.randint(least, most)
        while True:
            source = "\n".join([*writer.lines, writer.last()])
            done = run(source)
            if done.steps >= steps:
                break
            rng.choice(writer.pieces())()
        fine = done.steps <= most and all(lowest <= number <= highest for number in done.numbers)
        if fine and "--" not in done.trace and "+-" not in done.trace:  # no negative number on the right of a sign
            return source, done


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a program and the question what it prints."""
    source, done = write(rng, difficulty)
    messages = (user(rng.choice(_PROMPTS).format(source=source)), assistant(done.printed, done.trace))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=messages, turns=(1,))
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.1 else example


FAMILY = Family(name="code", sample=sample, verify=matches)
