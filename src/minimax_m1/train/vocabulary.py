"""The tokenizer of a small model: byte-level BPE over the recipe's own texts.

In: a recipe. Out: a `MiniMaxM1Tokenizer` of the recipe's vocabulary size, the same for the same seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from minimax_m1.tasks.example import draw
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.chat import render
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import SMALL_SPECIALS
from minimax_m1.train.recipe import Recipe

_EXAMPLES = 4000


def build_tokenizer(recipe: Recipe) -> MiniMaxM1Tokenizer:
    """Learns merges from rendered examples of every family."""
    return MiniMaxM1Tokenizer.train(_texts(recipe), vocab_size=recipe.model.vocab_size, specials=SMALL_SPECIALS)


def _texts(recipe: Recipe) -> Iterator[str]:
    rng = random.Random(f"{recipe.seed}/vocabulary")
    markers = re.compile("|".join(map(re.escape, SMALL_SPECIALS)))
    names = sorted(recipe.shares)
    for index in range(_EXAMPLES):
        example = draw(FAMILIES[names[index % len(names)]], rng, rng.randint(1, 5), "train")
        if example.raw is not None:
            yield example.raw
        else:
            text = render(example.messages, example.tools or None, add_generation_prompt=False)
            yield markers.sub("\n", text)  # their ids exist already; as text they would only cost merges
