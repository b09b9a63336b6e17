"""Words for the task families: small lists of common ones, and made-up pronounceable ones.

In: a `random.Random`. Out: strings. Made-up words have 2 to 4 syllables of the forms CV and CVC, so that there
are far too many of them to learn by heart: a model can only copy them.
"""

from __future__ import annotations

import random


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for lists that read better as one."""
    return tuple(text.split())


NOUNS = words(
    """farmer teacher doctor sailor baker child king queen soldier painter singer driver hunter writer student
    horse dog cat bird fish fox wolf bear rabbit tree flower stone cloud wind storm boat train wagon lamp book
    letter key box chair table window clock bell coat hat knife cup bottle bread apple"""
)
PLACES = words(
    """river mountain village forest market garden harbour castle bridge school church station valley island
    field lake city tower library kitchen"""
)
ADJECTIVES = words(
    """old young red blue green small large quiet happy tired brave bright dark cold warm strange heavy gentle
    clever slow white black golden silver empty broken"""
)
MOVES = words("walked ran came returned travelled turned hurried moved went wandered")
ACTS = words("found saw lost carried bought sold painted watched liked opened cleaned wanted forgot took")
RESTS = words("slept waited sang laughed stood rested worked stayed sat played")
TIMES = words("morning evening night summer winter spring autumn afternoon")
NAMES = words("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Laura Max Nora Oscar Paul Rosa Tom Vera")
CITIES = words("Paris London Berlin Rome Madrid Tokyo Oslo Cairo Lima Vienna Prague Dublin Boston Delhi")
TWO_WORD_CITIES = ("New York", "Los Angeles", "Hong Kong", "San Francisco", "Cape Town", "Buenos Aires")

_ONSETS = "bdfghjklmnprstvwz"
_VOWELS = "aeiou"
_CODAS = "klmnrst"


def syllable(rng: random.Random) -> str:
    """Two letters, or three in a third of the cases."""
    coda = rng.choice(_CODAS) if rng.random() < 1 / 3 else ""
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + coda


def made_up(rng: random.Random, start: str = "") -> str:
    """A made-up word in lower case, 2 to 4 syllables; `start` replaces its first syllable."""
    count = rng.choices((2, 3, 4), (5, 4, 1))[0]
    return (start or syllable(rng)) + "".join(syllable(rng) for _ in range(count - 1))


def first_syllable(word: str) -> str:
    """The consonant and vowel that a made-up word starts with."""
    return word[:2]
