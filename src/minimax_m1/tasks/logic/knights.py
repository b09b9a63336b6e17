"""Knights and knaves: knights always tell the truth, knaves always lie, and each person says one sentence.

In: a generator of random numbers and a difficulty (2 to 4 people, longer sentences). Out: a puzzle with one solution.
The thought writes the sentences short, "B:A-|C+" for "Anna is a knave or Clara is a knight", said by Ben, then
tries everybody's kind in order until all sentences fit; a try ends at the first that is bad.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation
from minimax_m1.tasks.words import NAMES

Kinds = dict[str, bool]  # name to whether it is a knight

_LONGEST = 100  # characters of the thought for each person
_RULE = "Knights always tell the truth, knaves always lie."
_PROMPTS = (
    "{rule} {talk} Who is what? Answer like this: {form}",
    "{talk} {rule} Say what each one is, in the form {form}",
    "{rule}\n{talk}\nWhat is each of them? Write it as {form}",
    "On an island live knights and knaves. {rule} {talk} Tell what each one is. Form: {form}",
    "{rule} {talk} Find out who is a knight and who is a knave. Answer as in {form}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saying:
    """A sentence: one claim (name, whether a knight), or two joined by "&" (and) or "|" (or)."""

    claims: tuple[tuple[str, bool], ...]
    joint: str = "&"

    def true_if(self, kinds: Kinds) -> bool:
        """Whether the sentence is true when everybody is of the given kind."""
        truths = [kinds[name] == knight for name, knight in self.claims]
        return all(truths) if self.joint == "&" else any(truths)

    def decided_by(self, names: list[str], kinds: Kinds) -> int:
        """The place in `names` of the last person whose kind is needed to say whether the sentence is true."""
        truth = self.true_if(kinds)
        places = [names.index(name) for name, knight in self.claims if (kinds[name] == knight) == truth]
        one_is_enough = truth == (self.joint == "|")  # one false claim makes "and" false, one true claim "or" true
        return min(places) if one_is_enough else max(places)


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws people and what they say, or two easier puzzles."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws people and sentences until exactly one solution fits and the search is short."""
    count = 2 + int(max(0, difficulty - 2) / 4 + rng.random())  # 2, 3 or 4, more often more
    names = rng.sample(NAMES, count)
    while True:
        said = {name: _saying(rng, name, names, difficulty) for name in names}
        fitting = [kinds for kinds in _all_kinds(names) if all(said[n].true_if(kinds) == kinds[n] for n in names)]
        thought = search(said)
        if len(fitting) == 1 and len(thought) <= _LONGEST * count:
            break
    talk = " ".join(f'{name} says: "{_spoken(name, saying)}"' for name, saying in said.items())
    form = f"{names[0]} knave, {names[1]} knight" + (", and so on" if count > 2 else "")
    answer = ", ".join(f"{name} {_kind(knight)}" for name, knight in fitting[0].items())
    prompt = rng.choice(_PROMPTS).format(rule=_RULE, talk=talk, form=form)
    return Puzzle(prompt=prompt, thought=thought, answer=answer)


def search(said: dict[str, Saying]) -> str:
    """The thought: all kinds in order, knights first, up to those that fit.

    "bad R" says that whoever comes after R does not matter; the next try changes R or somebody before.
    """
    lines = [f"{name[0]}:{saying.joint.join(map(_short, saying.claims))}" for name, saying in said.items()]
    names = list(said)
    failed: list[bool] = []  # the kinds of the first people that went wrong in the last try
    for kinds in _all_kinds(names):
        state = list(kinds.values())
        if failed and state[: len(failed)] == failed:
            continue
        failed, checks = [], [f"{''.join(map(_short, kinds.items()))}"]
        for name, saying in said.items():
            checks.append(f"{_short((name, kinds[name]))}:{_checked(saying, kinds)}")
            if saying.true_if(kinds) != kinds[name]:
                last = max(names.index(name), saying.decided_by(names, kinds))
                failed = state[: last + 1]
                checks.append(f"bad {names[last][0]}")
                break
        lines.append(" ".join(checks))
        if not failed:
            break
    return "\n".join(lines)


def _checked(saying: Saying, kinds: Kinds) -> str:
    """Each claim with T or F behind it; where there are two, T or F for the sentence at the end."""
    truths = saying.joint.join(f"{_short(claim)}{_letter(kinds[claim[0]] == claim[1])}" for claim in saying.claims)
    return truths if len(saying.claims) == 1 else f"{truths}={_letter(saying.true_if(kinds))}"


def _all_kinds(names: list[str]) -> list[Kinds]:
    return [dict(zip(names, kinds, strict=True)) for kinds in product((True, False), repeat=len(names))]


def _saying(rng: random.Random, name: str, names: list[str], difficulty: int) -> Saying:
    others = [other for other in names if other != name]
    if rng.random() < 0.6 - 0.02 * difficulty:
        return Saying(claims=((rng.choice(others), rng.random() < 0.5),))
    other = rng.choice(others)
    second = rng.choice([someone for someone in names if someone != other])
    claims = tuple((someone, rng.random() < 0.5) for someone in (other, second))
    return Saying(claims=claims, joint=rng.choice("&|"))


def _spoken(name: str, saying: Saying) -> str:
    parts = [f"{'I am' if who == name else f'{who} is'} a {_kind(knight)}" for who, knight in saying.claims]
    return (" and " if saying.joint == "&" else " or ").join(parts) + "."


def _kind(knight: bool) -> str:
    return "knight" if knight else "knave"


def _short(claim: tuple[str, bool]) -> str:
    return claim[0][0] + "-+"[claim[1]]


def _letter(truth: bool) -> str:
    return "T" if truth else "F"


FAMILY = Family(name="logic_knights", sample=sample, verify=matches)
