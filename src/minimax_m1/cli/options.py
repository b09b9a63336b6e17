"""Options that several commands take, and what they make of them: a model with its settings, JSON on stdout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from minimax_m1.engine.request import SamplingParams
    from minimax_m1.llm import LLM

Model = Annotated[str, typer.Option("--model", "-m", help='"nano", a folder, or a hub id.')]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens to make; default: the model's own.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; default: the model's own.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the likeliest tokens of this total probability.")]
Dtype = Annotated[str, typer.Option(help='Of the weights, such as "bfloat16"; "auto" is the checkpoint\'s.')]
Device = Annotated[str, typer.Option(help="cpu, cuda, or cuda:1.")]
Threshold = Annotated[float, typer.Option(help="Share of the gate to keep, in (0, 1]; lower is faster.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
MaxModelLen = Annotated[int | None, typer.Option(help="Most tokens of input and output; default: the model's limit.")]
Quantization = Annotated[
    str | None, typer.Option(help='"int8" holds most weights in a byte each; default: as the checkpoint has them.')
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]


def open_model(
    model: str,
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    expert_threshold: float,
    quantization: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
) -> tuple[LLM, SamplingParams]:
    """The model, and its own sampling settings with what the user gave put over them."""
    from minimax_m1.llm import LLM

    llm = LLM(model, dtype=dtype, device=device, quantization=quantization)
    given: Mapping[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    return llm, dataclasses.replace(llm.get_default_sampling_params(), expert_threshold=expert_threshold, **given)


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
