"""Word sorting: words in the order of the alphabet.

In: a generator of random numbers and a difficulty (2 to 10 words). Out: a puzzle answered by the sorted words.
The thought gives each word a key, the first letters that no other word begins with, then the same lines in order:
the least key above the last one is always next.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.logic.puzzle import Puzzle, conversation
from minimax_m1.tasks.words import ADJECTIVES, NOUNS, PLACES, made_up

_COMMON = NOUNS + PLACES + ADJECTIVES
_PROMPTS = (
    "Sort these words from a to z: {words}\nWrite them {form}.",
    "Put the words in alphabetical order, {form}: {words}",
    "Sort alphabetically and answer {form}: {words}",
    "{words}\nSort these words by the alphabet. Write them {form}.",
    "Which order do these words have in a dictionary? Write them {form}.\n{words}",
    "sort the words: {words} ({form})",
)
_FORMS = (("with spaces between", " "), ("with commas between", ", "), ("one per line", "\n"))


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws words to sort, or two short lists."""
    return conversation(FAMILY.name, pose, rng, difficulty)


def pose(rng: random.Random, difficulty: int) -> Puzzle:
    """Draws distinct words; up to difficulty 3 no two begin with the same letter."""
    count = 2 + 8 * difficulty // 10
    invented = rng.random() < 0.5
    words: list[str] = []
    while len(words) < count:
        word = made_up(rng) if invented else rng.choice(_COMMON)
        if word not in words and (difficulty > 3 or all(word[0] != other[0] for other in words)):
            words.append(word)
    form, between = rng.choice(_FORMS)
    prompt = rng.choice(_PROMPTS).format(words=rng.choice((" ", ", ")).join(words), form=form)
    return Puzzle(prompt=prompt, thought=keyed(words), answer=between.join(sorted(words)))


def keyed(words: list[str]) -> str:
    """Lines "key word", first in the given order, then sorted."""
    lines = [f"{_key(word, words)} {word}" for word in words]
    return "\n".join([*lines, "sorted:", *(f"{_key(word, words)} {word}" for word in sorted(words))])


def _key(word: str, words: list[str]) -> str:
    """The shortest beginning of the word that no other has; the whole word if there is none."""
    others = [other for other in words if other != word]
    for size in range(1, len(word)):
        if not any(other.startswith(word[:size]) for other in others):
            return word[:size]
    return word


FAMILY = Family(name="logic_sorting", sample=sample, verify=matches)
