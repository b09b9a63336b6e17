"""`LLM`: text and engine in one object, for scripts, rollouts and evaluation."""

from __future__ import annotations

from minimax_m1.llm.llm import LLM
from minimax_m1.llm.output import CompletionOutput, Logprob, RequestOutput

__all__ = ["LLM", "CompletionOutput", "Logprob", "RequestOutput"]
