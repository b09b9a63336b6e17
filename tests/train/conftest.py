"""The tiny recipe and its tokenizer, learned once; files of chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.recipe import Recipe
from minimax_m1.train.recipes import recipe
from minimax_m1.train.run import Run
from minimax_m1.train.vocabulary import build_tokenizer


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return recipe("tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny_recipe: Recipe) -> MiniMaxM1Tokenizer:
    return build_tokenizer(tiny_recipe)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the tiny recipe, as a folder."""
    folder = tmp_path_factory.mktemp("start") / "model"
    Run.begin(recipe("tiny")).finish(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Twelve short chats."""
    lines = [
        {"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": f"{n} is a cat."}]}
        for n in range(12)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path
