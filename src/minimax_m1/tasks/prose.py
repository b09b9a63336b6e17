"""Filler text: short true-to-grammar sentences about nothing, and a rough count of tokens.

In: a `random.Random`. Out: sentences, and their number of tokens as a small tokenizer would count them:
a digit, a punctuation mark, a run of spaces and a common word are one each.
"""

from __future__ import annotations

import random
import re

from minimax_m1.tasks.words import ACTS, ADJECTIVES, MOVES, NAMES, NOUNS, PLACES, RESTS, TIMES

_PIECE = re.compile(r"[^\W\d_]+|[^\S\n]+|[\s\S]")
_PATTERNS = (
    "The {adjective} {noun} {move} to the {place}.",
    "The {noun} {move} to the {place} and {rest} there.",
    "A {adjective} {noun} {rest} near the {place}.",
    "In the {time} the {noun} {act} a {adjective} {noun2}.",
    "{name} {act} the {noun} in the {place}.",
    "{name} and {name2} {move} to the {adjective} {place}.",
    "The {place} was {adjective} in the {time}.",
    "Every {time} the {noun} {rest} by the {place}.",
    "{name} {act} {count} {noun}s at the {place}.",
    "The {noun} and the {noun2} {rest} all {time}.",
    "It was a {adjective} {time}.",
    "Nobody {act} the {noun}.",
)


def sentence(rng: random.Random) -> str:
    """One sentence of 5 to 20 tokens; no two words in it depend on each other."""
    return rng.choice(_PATTERNS).format(
        adjective=rng.choice(ADJECTIVES),
        noun=rng.choice(NOUNS),
        noun2=rng.choice(NOUNS),
        place=rng.choice(PLACES),
        move=rng.choice(MOVES),
        act=rng.choice(ACTS),
        rest=rng.choice(RESTS),
        time=rng.choice(TIMES),
        name=rng.choice(NAMES),
        name2=rng.choice(NAMES),
        count=rng.randint(2, 30),
    )


def approx_tokens(text: str) -> int:
    """About how many tokens the text has; a long or unknown word counts one for each six letters."""
    return sum(1 + (len(piece) - 1) // 6 if piece[0].isalpha() else 1 for piece in _PIECE.findall(text))
