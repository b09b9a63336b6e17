"""What a model is asked: named suites of held-out cases, which follow from the registry of task families.

In: a number of cases, a seed, and a function that counts a text's tokens. Out: `Suite`s, each with `Case`s. A few
families have suites of their own, where one thing is measured at growing sizes; every other has one suite of all ten
difficulties in turn. Cases come from the test split, which training never sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minimax_m1.errors import RequestError
from minimax_m1.tasks.addition import MOST_DIGITS
from minimax_m1.tasks.example import Example, Reply, draw, prompt_of
from minimax_m1.tasks.families import FAMILIES, is_right
from minimax_m1.tasks.recall import needle
from minimax_m1.tasks.recall import sample as sample_recall
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Count = Callable[[str], int]

_LENGTHS = (1000, 4000, 8000)  # tokens of the texts with facts
_SEEN = 2000  # training examples whose tools count as seen: all that have one name for everybody are among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One graded turn of one example; of a raw text, what follows its last equals sign (turn 0)."""

    example: Example
    turn: int = 0

    def prompt(self, tokenizer: MiniMaxM1Tokenizer) -> list[int]:
        """The ids that the model is to continue."""
        if self.example.raw is not None:
            return tokenizer.encode(self.example.raw.rpartition("=")[0] + "=")
        return encode_chat(tokenizer, prompt_of(self.example, self.turn), self.example.tools or None)

    def told(self, tokenizer: MiniMaxM1Tokenizer) -> tuple[list[int], list[bool]]:
        """The prompt with its reference reply, and which of these ids are the reply's, its end among them."""
        asked = self.prompt(tokenizer)
        if self.example.raw is not None:
            assert tokenizer.eos_token_id is not None
            ids = [*asked, *tokenizer.encode(self.example.raw.rpartition("=")[2]), tokenizer.eos_token_id]
            return ids, [at >= len(asked) for at in range(len(ids))]
        messages, tools = self.example.messages[: self.turn + 1], self.example.tools or None
        ids, said = encode_chat(tokenizer, messages, tools, add_generation_prompt=False, with_mask=True)
        return ids, [bool(own) and at >= len(asked) for at, own in enumerate(said)]

    def right(self, reply: Reply) -> bool:
        """Whether the family's verifier accepts it; of a raw text, whether it is what follows there."""
        return is_right(self.example, self.turn, reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named set of cases of one family; `make(cases, rng, count)` draws them."""

    name: str
    family: str
    make: Callable[[int, random.Random, Count], list[Case]]

    def cases(self, cases: int, seed: int, count: Count) -> list[Case]:
        """So many cases; the same for the same seed, whatever other suites are asked for."""
        return self.make(cases, random.Random(f"evaluate/{seed}/{self.name}"), count)


def suites() -> list[Suite]:
    """All of them, in the order of a report."""
    found = [
        *(_leveled(f"addition, up to {digits} digits", "addition", digits) for digits in range(1, MOST_DIGITS + 1)),
        _leveled("sums without a thought", "sums", 2),
        Suite(name="tool calls", family="tools", make=_tool_calls),
        _leveled("talk", "talk", 5),
        *(_needles(tokens) for tokens in _LENGTHS),
        *(_recall(tokens) for tokens in _LENGTHS),
    ]
    named = {suite.family for suite in found}
    return [*found, *(_mixed(family) for family in FAMILIES if family not in named)]


def choose(names: Sequence[str]) -> list[Suite]:
    """The suites whose names begin with one of `names`, or else whose families do; all where none is given.

    Raises:
        RequestError: a name begins none; the message lists what there is.
    """
    every = suites()
    chosen = [] if names else every
    for name in names:
        found = [suite for suite in every if suite.name.startswith(name)]
        found = found or [suite for suite in every if suite.family.startswith(name)]
        if not found or not name:
            there = "; ".join(suite.name for suite in every)
            raise RequestError(f"no suite begins with {name!r}; there are: {there}", param="suite")
        chosen += [suite for suite in found if suite not in chosen]
    return chosen


def _leveled(name: str, family: str, difficulty: int) -> Suite:
    """Examples of one difficulty, asked for their first reply."""

    def make(cases: int, rng: random.Random, count: Count) -> list[Case]:
        return [_first(draw(FAMILIES[family], rng, difficulty, "test")) for _ in range(cases)]

    return Suite(name=name, family=family, make=make)


def _mixed(family: str) -> Suite:
    """Examples of difficulty 1, 2, ... 10, 1, ...; in longer conversations any graded turn is asked for."""

    def make(cases: int, rng: random.Random, count: Count) -> list[Case]:
        drawn = [draw(FAMILIES[family], rng, 1 + place % 10, "test") for place in range(cases)]
        return [Case(example=each, turn=rng.choice(each.turns or (0,))) for each in drawn]

    return Suite(name=family, family=family, make=make)


def _tool_calls(cases: int, rng: random.Random, count: Count) -> list[Case]:
    """Turns that call a tool, at every difficulty, where no tool has a name that training is sure to have seen."""
    teacher = random.Random("evaluate/seen")
    seen = {tool["name"] for _ in range(_SEEN) for tool in draw(FAMILIES["tools"], teacher, 3, "train").tools}
    found: list[Case] = []
    while len(found) < cases:
        example = draw(FAMILIES["tools"], rng, rng.randint(1, 10), "test")
        calls = "tool_calls" in example.messages[example.turns[0]]
        if calls and not any(tool["name"] in seen for tool in example.tools):
            found.append(_first(example))
    return found


def _needles(tokens: int) -> Suite:
    """One fact at any depth of filler prose."""

    def make(cases: int, rng: random.Random, count: Count) -> list[Case]:
        return [_first(needle(rng, tokens, rng.random(), count)) for _ in range(cases)]

    return Suite(name=f"needle in {tokens} tokens", family="recall", make=make)


def _recall(tokens: int) -> Suite:
    """First questions of documents (lists and prose, many facts each) from a quarter of the length to the whole."""

    def make(cases: int, rng: random.Random, count: Count) -> list[Case]:
        found: list[Case] = []
        while len(found) < cases:
            example = sample_recall(rng, rng.randint(1, 10), int(tokens * rng.uniform(0.25, 1.0)))
            size = sum(count(message["content"]) for message in prompt_of(example, example.turns[0]))
            if tokens // 4 <= size <= tokens:
                found.append(_first(example))
        return found

    return Suite(name=f"recall within {tokens} tokens", family="recall", make=make)


def _first(example: Example) -> Case:
    return Case(example=example, turn=example.turns[0] if example.turns else 0)
