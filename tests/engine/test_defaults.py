"""A model's own sampling settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.engine.defaults import defaults
from minimax_m1.errors import CheckpointError


def settings(folder: Path, **keys: Any) -> Any:
    (folder / "generation_config.json").write_text(json.dumps(keys))
    return defaults(folder, 1000)


def test_without_a_file_everything_is_vllm_s(tmp_path: Path) -> None:
    params = defaults(tmp_path, 1000)
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (1.0, 1.0, 0, 1000)
    assert (params.min_p, params.repetition_penalty, params.thinking_budget) == (0.0, 1.0, None)


def test_the_file_s_settings(tmp_path: Path) -> None:
    params = settings(tmp_path, do_sample=True, temperature=0.7, top_p=0.95, top_k=40, min_p=0.1, eos_token_id=2)
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.7, 0.95, 40, 1000)
    assert params.min_p == 0.1
    params = settings(tmp_path, do_sample=False, temperature=0.7, max_new_tokens=64, repetition_penalty=1.1)
    assert (params.temperature, params.max_tokens, params.repetition_penalty) == (0.0, 64, 1.1)
    assert settings(tmp_path, max_new_tokens=10**6).max_tokens == 1000


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"temperature": -1}', '{"temperature": "hot"}', '{"max_new_tokens": 0}', '{"top_p": 7}']
)
def test_a_file_that_describes_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        defaults(tmp_path, 1000)


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("MiniMax-M1-40k", 40_960),
        ("MiniMax-M1-80k", 81_920),
        ("MiniMax-M1-80K-hf", 81_920),
        ("models--MiniMaxAI--MiniMax-M1-40k/snapshots/0123abc", 40_960),
        ("MiniMax-Text-01", None),
        ("M1-40k-experts", None),
        ("words-140k", None),
        ("MiniMax-M1-40k/mine", None),
    ],
)
def test_a_model_s_name_says_how_long_it_may_think(tmp_path: Path, name: str, budget: int | None) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert defaults(folder, 10**6).thinking_budget == budget


def test_the_config_s_name_and_the_file_s_own_word_on_thinking(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "MiniMaxAI/MiniMax-M1-80k"}')
    assert defaults(tmp_path, 1000).thinking_budget == 81_920
    assert settings(tmp_path, thinking_budget=7).thinking_budget == 7
    assert settings(tmp_path, thinking_budget=None).thinking_budget is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        settings(tmp_path)
