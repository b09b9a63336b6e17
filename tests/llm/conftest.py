"""A small real tokenizer, a small random model with sharp choices, and scripted engines in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from minimax_m1.engine.request import Engine
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.llm import LLM
from minimax_m1.llm.driver import Driver
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


@pytest.fixture(scope="session")
def words() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.train(["the old farmer walked to the river " * 3], vocab_size=300)


@pytest.fixture(scope="module")
def llm(words: MiniMaxM1Tokenizer) -> LLM:
    torch.manual_seed(11)
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=words.vocab_size)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
    return LLM.of(model, words, max_model_len=1024, max_num_seqs=3)


@pytest.fixture
def script(llm: LLM, words: MiniMaxM1Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine | str], LLM]:
    """The LLM over another engine, or over one that always says the given text."""

    def over(engine: Engine | str) -> LLM:
        if isinstance(engine, str):
            said, eos = words.encode(engine), words.eos_token_id
            assert eos is not None
            engine = ScriptedEngine(lambda prompt: [*said, eos], vocab_size=words.vocab_size, eos_ids=[eos])
        monkeypatch.setattr(llm, "_driver", Driver(engine))
        return llm

    return over
