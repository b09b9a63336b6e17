"""The tiny recipe and its tokenizer, learned once."""

from __future__ import annotations

import pytest

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.recipe import Recipe
from minimax_m1.train.recipes import recipe
from minimax_m1.train.vocabulary import build_tokenizer


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return recipe("tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny_recipe: Recipe) -> MiniMaxM1Tokenizer:
    return build_tokenizer(tiny_recipe)
