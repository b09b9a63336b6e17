"""Two small tokenizers, one of each kind of the family, trained on a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, trainers

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import SMALL_SPECIALS, byte_symbols, published_pre_tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog; it's what they'd do, isn't it?",
    "What is 12 + 34? The answer is 46.\n\nThen  the   spaces\tand\n\n\n  newlines.",
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}',
    "你好\uff0c世界。我们今天去北京\uff0c天气很好\uff01 数字 2024 年。",
    "we'll, they'll, we've, you've, you're, we're",
    "naïve café 🙂🙂 done",
] * 8


@pytest.fixture(scope="session")
def small() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.train(CORPUS, vocab_size=420)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> MiniMaxM1Tokenizer:
    """The published kind: GPT-2's split, built from a merges file."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = published_pre_tokenizer()
    learner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=list(byte_symbols()), show_progress=False)
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    path = tmp_path_factory.mktemp("published") / "merges.txt"
    path.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges), "utf-8")
    specials = {name: 1000 + i for i, name in enumerate(SMALL_SPECIALS)}
    return MiniMaxM1Tokenizer.from_merges(path, specials=specials)


@pytest.fixture(params=["small", "published"])
def tokenizer(request: pytest.FixtureRequest) -> MiniMaxM1Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def published_template() -> str:
    return (Path(__file__).parent / "data" / "published_chat_template.jinja").read_text("utf-8")
