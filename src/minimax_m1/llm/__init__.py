"""`LLM`: text and engine in one object, for scripts, rollouts and evaluation; and what its calls take and give."""

from __future__ import annotations

from minimax_m1.engine.request import RepetitionStop, SamplingParams, StructuredOutputsParams
from minimax_m1.llm.llm import LLM
from minimax_m1.llm.output import CompletionOutput, Logprob, RequestOutput

__all__ = [
    "LLM",
    "CompletionOutput",
    "Logprob",
    "RepetitionStop",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
]
