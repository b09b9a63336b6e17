"""One solution fits what people say, and each check of the search is true."""

from __future__ import annotations

import random
import re
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.logic import knights
from minimax_m1.tasks.logic.knights import Saying


def heard(prompt: str) -> dict[str, tuple[list[tuple[str, bool]], str]]:
    """Who says what: claims and "and", "or" or ""."""
    sayings = {}
    for name, text in re.findall(r'(\w+) says: "([^"]*)\."', prompt):
        claims = [
            (name if who == "I" else who, kind == "knight")
            for who, kind in re.findall(r"(\w+) (?:is|am) a (\w+)", text)
        ]
        joint = re.search(r" (and|or) ", text)
        sayings[name] = (claims, joint[1] if joint else "")
    return sayings


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_exactly_one_solution_fits(seed: int, difficulty: int) -> None:
    puzzle = knights.pose(random.Random(seed), difficulty)
    sayings = heard(puzzle.prompt)
    assert -1 < len(sayings) - 2 - max(0, difficulty - 2) / 4 < 1
    fitting = []
    for kinds in product((True, False), repeat=len(sayings)):
        world = dict(zip(sayings, kinds, strict=True))
        truths = {}
        for name, (claims, joint) in sayings.items():
            parts = [world[who] == knight for who, knight in claims]
            truths[name] = any(parts) if joint == "or" else all(parts)
        if truths == world:
            fitting.append(", ".join(f"{name} {'knight' if knight else 'knave'}" for name, knight in world.items()))
    assert fitting == [puzzle.answer]


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_each_check_is_true_and_no_try_that_fits_is_left_out(seed: int, difficulty: int) -> None:
    puzzle = knights.pose(random.Random(seed), difficulty)
    sayings = heard(puzzle.prompt)
    lines = puzzle.thought.splitlines()
    for line, (name, (claims, joint)) in zip(lines, sayings.items(), strict=False):
        sign = "|" if joint == "or" else "&"
        assert line == f"{name[0]}:" + sign.join(f"{who[0]}{'+' if knight else '-'}" for who, knight in claims)
    tries = [line.split(" ") for line in lines[len(sayings) :]]
    states = [parts[0] for parts in tries]
    assert states == sorted(states) and len(set(states)) == len(states)  # "+" comes before "-"
    for parts in tries:
        world = dict(re.findall(r"(\w)([+-])", parts[0]))
        checks = parts[1 : parts.index("bad")] if "bad" in parts else parts[1:]
        for place, check in enumerate(checks):
            speaker, said = check.split(":")
            assert speaker == parts[0][2 * place : 2 * place + 2]
            claims_said, _, whole = said.partition("=")
            letters = re.findall(r"(\w)([+-])([TF])", claims_said)
            assert all((world[who] == sign) == (letter == "T") for who, sign, letter in letters)
            truth = (any if "|" in said else all)(letter == "T" for _, _, letter in letters)
            assert not whole or (whole == "T") == truth
            last = place == len(checks) - 1
            assert (truth == (speaker[1] == "+")) != (last and "bad" in parts)
    assert ["bad" in parts for parts in tries] == [True] * (len(tries) - 1) + [False]
    assert states[-1] == "".join(
        f"{who[0]}{'+' if kind == 'knight' else '-'}" for who, kind in re.findall(r"(\w+) (\w+)", puzzle.answer)
    )


def test_the_first_false_claim_is_blamed() -> None:
    kinds = {"Anna": True, "Ben": True, "Clara": True}
    names = list(kinds)
    claims = (("Clara", False), ("Ben", False))
    assert Saying(claims=claims).decided_by(names, kinds) == 1  # both claims are false, Ben comes first
    assert Saying(claims=claims, joint="|").decided_by(names, kinds) == 2  # only both together make it false
    assert Saying(claims=claims, joint="|").decided_by(names, {**kinds, "Clara": False}) == 2


def test_a_try_that_fails_for_one_person_is_not_repeated_for_the_others() -> None:
    said = {
        "Anna": Saying(claims=(("Ben", True), ("Anna", False))),
        "Ben": Saying(claims=(("Anna", True),)),
    }
    assert knights.search(said).splitlines()[2:] == [
        "A+B+ A+:B+T&A-F=F bad A",
        "A-B+ A-:B+T&A-T=T bad B",
        "A-B- A-:B+F&A-T=F B-:A+F",
    ]
