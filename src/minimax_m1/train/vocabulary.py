"""The tokenizer of a small model: byte-level BPE over the run's own texts.

In: a recipe. Out: a `MiniMaxM1Tokenizer` of the recipe's vocabulary size, the same for the same seed and files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from minimax_m1.errors import DataError
from minimax_m1.tasks.example import draw
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.chat import render
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import SMALL_SPECIALS
from minimax_m1.train.kinds import read_line
from minimax_m1.train.lines import numbered
from minimax_m1.train.recipe import DATA, Recipe

_EXAMPLES = 4000
_CHARACTERS = 20_000_000  # of the user's files, as many of each; more would hardly change which merges are learned


def build_tokenizer(recipe: Recipe) -> MiniMaxM1Tokenizer:
    """Learns merges from rendered examples of every family, and from the user's files.

    Raises DataError: a file is missing, a folder, empty or cannot be read.
    """
    assert recipe.model is not None
    markers = re.compile("|".join(map(re.escape, SMALL_SPECIALS)))  # ids of their own; as text they would cost merges
    texts = (markers.sub("\n", text) for text in _texts(recipe))
    return MiniMaxM1Tokenizer.train(texts, vocab_size=recipe.model.vocab_size, specials=SMALL_SPECIALS)


def _texts(recipe: Recipe) -> Iterator[str]:
    rng = random.Random(f"{recipe.seed}/vocabulary")
    names = sorted(name for name, share in recipe.shares.items() if share and name != DATA)
    for index in range(_EXAMPLES if names else 0):
        example = draw(FAMILIES[names[index % len(names)]], rng, rng.randint(1, 5), "train")
        if example.raw is not None:
            yield example.raw
        else:
            yield render(example.messages, example.tools or None, add_generation_prompt=False)
    for file in recipe.data:
        yield from _told(Path(file), _CHARACTERS // len(recipe.data))


def _told(file: Path, characters: int) -> Iterator[str]:
    """The texts of a file, up to so many characters."""
    for _, _, raw in numbered(file):
        try:
            line = read_line(raw)
        except DataError:
            continue  # `ready` names it once there is a tokenizer to read the files with
        text = line.text or render(line.messages, line.tools or None, add_generation_prompt=False)
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
