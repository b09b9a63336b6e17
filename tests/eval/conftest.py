"""A model of random weights that reads and answers in a moment."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.llm import LLM
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.from_pretrained("nano")


@pytest.fixture(scope="session")
def model(tokenizer: MiniMaxM1Tokenizer) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size, max_position_embeddings=16384))


@pytest.fixture
def llm(model: MiniMaxM1ForCausalLM, tokenizer: MiniMaxM1Tokenizer) -> LLM:
    return LLM.of(model, tokenizer)
