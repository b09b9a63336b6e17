"""The public surface: at most ten names, sorted, each loading on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import minimax_m1


def test_the_public_names() -> None:
    names = ["LLM", "MiniMaxM1Config", "MiniMaxM1ForCausalLM", "MiniMaxM1Tokenizer", "SamplingParams"]
    assert minimax_m1.__all__ == names == sorted(names) and len(names) <= 10


@pytest.mark.parametrize("name", minimax_m1.__all__)
def test_each_name_loads_on_first_use(name: str) -> None:
    value = getattr(minimax_m1, name)
    assert value.__name__ == name
    assert getattr(minimax_m1, name) is value
    assert name in dir(minimax_m1)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        minimax_m1.Nothing  # noqa: B018


def test_configuration_and_sampling_need_no_torch() -> None:
    script = (
        "import sys; from minimax_m1 import MiniMaxM1Config, SamplingParams;"
        "MiniMaxM1Config(); SamplingParams(); sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
