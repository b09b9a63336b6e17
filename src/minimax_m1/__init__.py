"""MiniMax-M1 and its family: hybrid lightning attention with a mixture of experts.

The public names below load on first use, so `import minimax_m1` costs nothing and needs no torch.
Anything else is reached by its full path and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimax_m1.config import MiniMaxM1Config
    from minimax_m1.engine.request import SamplingParams
    from minimax_m1.llm import LLM
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

__all__ = ["LLM", "MiniMaxM1Config", "MiniMaxM1ForCausalLM", "MiniMaxM1Tokenizer", "SamplingParams"]

_HOMES = {
    "LLM": "minimax_m1.llm",
    "MiniMaxM1Config": "minimax_m1.config",
    "MiniMaxM1ForCausalLM": "minimax_m1.model.transformer",
    "MiniMaxM1Tokenizer": "minimax_m1.text.tokenizer",
    "SamplingParams": "minimax_m1.engine.request",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
