"""A model small enough to load in a moment, as a folder that the commands can be given."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from minimax_m1.presets import tiny


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny random model that answers eight tokens of nonsense, greedily."""
    import torch

    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

    folder = tmp_path_factory.mktemp("small")
    tokenizer = MiniMaxM1Tokenizer.train(["hello there, how are you"] * 3, vocab_size=300)
    torch.manual_seed(0)
    MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "max_new_tokens": 8}))
    return folder


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """`serve` sets up the process's log, which here is everybody's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
