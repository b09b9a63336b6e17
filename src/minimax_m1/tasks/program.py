"""An interpreter for a small piece of Python: assignments, if, for, while, lists of numbers, print.

In: the text of a program. Out: a `Run`: what it printed, and a trace of one line a statement that was carried out.
Such a line says the statement again, then what it makes of what it reads: "x = x + y: 12+3=15 x=15".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MOST_STEPS = 1000

_ASSIGN = re.compile(r"(\w+) = (.+)")
_SUM = re.compile(r"(\w+) ([-+*]) (\w+)")
_ITEM = re.compile(r"(\w+)\[(\d+)\]")
_LIST = re.compile(r"\[(\d+(?:, \d+)*)\]")
_APPEND = re.compile(r"(\w+)\.append\((\w+)\)")
_PRINT = re.compile(r"print\((\w+(?:, \w+)*)\)")
_BRANCH = re.compile(r"(if|while) (\w+) ([<>]) (\w+)")
_FOR = re.compile(r"for (\w+) in (.+)")
_RANGE = re.compile(r"range\((?:(\d+), )?(\d+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a program did; `steps` counts the statements carried out, `numbers` are all that it computed."""

    trace: str
    printed: str
    steps: int
    numbers: tuple[int, ...]


def run(source: str) -> Run:
    """Carries a program out. It must be well-formed and end within 1,000 steps: our own generator wrote it."""
    machine = _Machine()
    machine.block(_tree(source.splitlines()))
    printed = "\n".join(machine.printed)
    trace = "\n".join(machine.trace)
    return Run(trace=trace, printed=printed, steps=machine.steps, numbers=tuple(machine.numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    text: str  # without the colon that opens a body
    body: tuple[_Node, ...]


def _tree(lines: Sequence[str]) -> tuple[_Node, ...]:
    """Lines of one block with the deeper lines below each as its body."""
    if not lines:
        return ()
    nodes: list[_Node] = []
    starts = [place for place, line in enumerate(lines) if _depth(line) == _depth(lines[0])]
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        nodes.append(_Node(text=lines[start].strip().removesuffix(":"), body=_tree(lines[start + 1 : stop])))
    return tuple(nodes)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


@dataclass(slots=True, kw_only=True)
class _Machine:
    """The names' values, and what was written down so far."""

    values: dict[str, int] = field(default_factory=dict)
    lists: dict[str, list[int]] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    steps: int = 0

    def block(self, nodes: Iterable[_Node]) -> None:
        skipped = True  # the condition of the `if` just before was not met
        for node in nodes:
            if node.text == "else":
                if skipped:
                    self.trace.append("else:")
                    self.block(node.body)
            elif found := _BRANCH.fullmatch(node.text):
                skipped = not self.branch(node, found)
            elif found := _FOR.fullmatch(node.text):
                self.loop(node, found)
            else:
                self.simple(node.text)

    def branch(self, node: _Node, found: re.Match[str]) -> bool:
        """Carries out an if, or a while to its end; whether the condition was met at first."""
        word, left, sign, right = found.groups()
        a, b = self.number(left), self.number(right)
        met = a < b if sign == "<" else a > b
        self.note(node.text, f"{a}{sign}{b} {'yes' if met else 'no'}")
        if met:
            self.block(node.body)
            if word == "while":
                self.branch(node, found)
        return met

    def loop(self, node: _Node, found: re.Match[str]) -> None:
        name, over = found.groups()
        if span := _RANGE.fullmatch(over):
            numbers: Sequence[int] = range(int(span[1] or 0), int(span[2]))
        else:
            numbers = self.listed(over)
        for number in numbers:
            self.note(node.text, self.assign(name, number))
            self.block(node.body)
        self.note(node.text, "done")

    def simple(self, text: str) -> None:
        if found := _PRINT.fullmatch(text):
            self.printed.append(" ".join(map(self.shown, found[1].split(", "))))
            self.note(text, self.printed[-1])
        elif found := _APPEND.fullmatch(text):
            self.lists[found[1]].append(self.number(found[2]))
            self.note(text, f"{found[1]}={self.lists[found[1]]}")
        else:
            found = _ASSIGN.fullmatch(text)
            assert found, f"no statement of ours: {text}"
            self.note(text, self.evaluate(*found.groups()))

    def evaluate(self, name: str, text: str) -> str:
        """Assigns the value of an expression; what the trace says about it."""
        if found := _LIST.fullmatch(text):
            self.lists[name] = self.listed(text)
            return f"{name}={self.lists[name]}"
        if found := _ITEM.fullmatch(text):
            place, numbers = int(found[2]), self.lists[found[1]]
            counted = " ".join(f"{at}:{number}" for at, number in enumerate(numbers[: place + 1]))
            return f"{counted} {self.assign(name, numbers[place])}"
        if found := _SUM.fullmatch(text):
            a, sign, b = self.number(found[1]), found[2], self.number(found[3])
            value = a + b if sign == "+" else a - b if sign == "-" else a * b
            return f"{a}{sign}{b}={value} {self.assign(name, value)}"
        return self.assign(name, self.number(text))

    def assign(self, name: str, number: int) -> str:
        self.values[name] = number
        self.numbers.append(number)
        return f"{name}={number}"

    def number(self, text: str) -> int:
        return int(text) if text.isdigit() else self.values[text]

    def listed(self, text: str) -> list[int]:
        """The numbers of a list written out, or of a named one as it is now."""
        found = _LIST.fullmatch(text)
        return [int(number) for number in found[1].split(", ")] if found else list(self.lists[text])

    def shown(self, name: str) -> str:
        return str(self.lists[name] if name in self.lists else self.values[name])

    def note(self, statement: str, what: str) -> None:
        self.trace.append(f"{statement}: {what}")
        self.steps += 1
        assert self.steps <= MOST_STEPS, "a program of ours does not end"
