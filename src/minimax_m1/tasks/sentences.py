"""Sentences of a small grammar: written so that they keep a wish, and checked.

In: a `Wish` (what the sentence is about, how many words, which words, which letter not) and a generator of random
numbers. Out: a sentence that keeps it; or whether a text is a sentence of the grammar that keeps it. The grammar has
more sentences than `write` ever writes, so that a model may find its own.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from minimax_m1.tasks.words import ACTS, ADJECTIVES, MOVES, NAMES, NOUNS, PLACES, RESTS, TIMES

_MOST_TRIES = 20_000  # for one sentence; most need fewer than 20
_SMALL = ("the", "a", "an", "and", "to", "by", "near", "in", "at")
_SLOTS = {
    "NOUN": NOUNS,
    "PLACE": PLACES,
    "TIME": TIMES,
    "NAME": NAMES,
    "MOVE": MOVES,
    "ACT": ACTS,
    "REST": RESTS,
    "NEAR": ("by", "near", "in"),
}
_FRAMES = (
    "the NOUN REST",
    "NAME REST all TIME",
    "NAME ACT the NOUN",
    "the NOUN ACT the NOUN",
    "the NOUN REST NEAR the PLACE",
    "the NOUN MOVE to the PLACE",
    "NAME MOVE to the PLACE",
    "the NOUN and the NOUN REST",
    "NAME and NAME MOVE to the PLACE",
    "the NOUN ACT the NOUN NEAR the PLACE",
    "the NOUN MOVE to the PLACE in the TIME",
    "in the TIME the NOUN MOVE to the PLACE",
    "in the TIME NAME ACT the NOUN NEAR the PLACE",
    "the NOUN and the NOUN MOVE to the PLACE in the TIME",
)
# All sentences, in small letters but for names.
_NOUN = "|".join((*NOUNS, *PLACES))
_ARTICLE = "(?:the|a(?= [^aeiou])|an(?= [aeiou]))"
_THING = rf"(?:{_ARTICLE}(?: (?:{'|'.join(ADJECTIVES)})){{0,4}} (?:{_NOUN})|{'|'.join(NAMES)})"
_TIME = rf"(?:{'|'.join(TIMES)})"
_DOES = rf"(?:{'|'.join((*MOVES, *RESTS))}|(?:{'|'.join(ACTS)}) {_THING}(?: and {_THING})?)"
_GRAMMAR = re.compile(
    rf"(?:(?:in the|every) {_TIME} )?{_THING}(?: and {_THING})? {_DOES}"
    rf"(?: (?:to|by|near|in|at) {_THING})*(?: in the {_TIME}| all {_TIME})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a sentence must keep; empty fields ask for nothing."""

    about: str = ""
    count: int = 0
    uses: tuple[str, ...] = ()
    first: str = ""
    last: str = ""
    without: str = ""


def write(rng: random.Random, wish: Wish) -> str:
    """A sentence without its first capital and its full stop that keeps the wish; some sentence must be able to."""
    for _ in range(_MOST_TRIES):
        said = _attempt(rng, wish)
        if said and keeps(wish, said[0].upper() + said[1:] + "."):
            return said
    raise AssertionError(f"no sentence was found that keeps {wish}")


def _attempt(rng: random.Random, wish: Wish) -> str:
    """One try: a frame, the words that must stand in it, others at random, adjectives up to the count; or nothing."""
    frame = rng.choice(_FRAMES).split()
    spots = [place for place, token in enumerate(frame) if token in _SLOTS]
    filled: dict[int, str] = {}
    for word, places in (
        (wish.last, [len(frame) - 1]),
        (wish.first, [0]),
        *((w, spots) for w in (wish.about, *wish.uses)),
    ):
        if not word or word in filled.values():
            continue
        free = [place for place in places if place not in filled and word in _SLOTS.get(frame[place], (frame[place],))]
        if not free:
            return ""
        filled[rng.choice(free)] = word

    def allowed(choices: tuple[str, ...]) -> list[str]:
        return [w for w in choices if not wish.without or wish.without not in w.lower()]

    heads = [place for place, token in enumerate(frame) if token in ("NOUN", "PLACE")]
    extra = wish.count - len(frame) if wish.count else rng.randint(0, min(2, len(heads)))
    adjectives = allowed(ADJECTIVES)
    if not 0 <= extra <= min(2 * len(heads), len(adjectives)):
        return ""
    before: dict[int, list[str]] = {place: [] for place in heads}
    for adjective in rng.sample(adjectives, extra):
        before[rng.choice([place for place in heads if len(before[place]) < 2])].append(adjective)
    for place in spots:
        choices = [word for word in allowed(_SLOTS[frame[place]]) if word not in filled.values()]
        if place not in filled and not choices:
            return ""
        filled.setdefault(place, rng.choice(choices) if choices else "")
    said: list[str] = []
    for place, token in enumerate(frame):
        if token == "the" and place + 1 in before:
            following = (*before[place + 1], filled[place + 1])[0]
            may_be_any = frame[place + 1] == "NOUN" and wish.first != "the" and rng.random() < 0.2
            if may_be_any or wish.without == "e":
                token = "an" if following[0] in "aeiou" else "a"
        said += [*before.get(place, ()), filled[place] if place in spots else token]
    return " ".join(said)


def keeps(wish: Wish, content: str) -> bool:
    """Whether the text is one whole sentence of the grammar, rightly capitalised, and keeps the wish.

    Only small words such as "the" may stand in it twice, so that "old old old fox" is no way to reach a number.
    """
    if not content.endswith(".") or not content[0].isupper():
        return False
    named = content[:-1].split(" ")[0] in NAMES
    said = content[:-1] if named else content[0].lower() + content[1:-1]
    if not _GRAMMAR.fullmatch(said):
        return False
    spoken = said.split(" ")
    once = [word for word in spoken if word not in _SMALL]
    return (
        len(once) == len(set(once))
        and {*wish.uses, wish.about} - {""} <= set(spoken)
        and wish.count in (0, len(spoken))
        and wish.first in ("", spoken[0])
        and wish.last in ("", spoken[-1])
        and not (wish.without and wish.without in said.lower())
    )
