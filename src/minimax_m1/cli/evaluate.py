"""`minimax-m1 eval`: held-out accuracy and perplexity, family by family."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimax_m1.cli.options import AsJson, Quantization, print_json

if TYPE_CHECKING:
    from minimax_m1.eval.held_out import Score

app = typer.Typer()


@app.command(name="eval")
def evaluate(
    name: Annotated[str, typer.Argument(help='"nano", a folder, or a hub id.')],
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases a suite.")] = 200,
    seed: Annotated[int, typer.Option(help="Chooses the cases.")] = 0,
    quantization: Quantization = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out cases of the task families."""
    measure(name, cases, seed, as_json, quantization)


def measure(name: str, cases: int, seed: int, as_json: bool, quantization: str | None = None) -> None:
    """One line a suite, as it is graded."""
    from minimax_m1.eval.held_out import evaluate
    from minimax_m1.llm import LLM

    scores = []
    for score in evaluate(LLM(name, quantization=quantization), cases=cases, seed=seed):
        scores.append(score)
        if not as_json:
            typer.echo(
                f"{score.name:26} {score.accuracy:7.1%}  perplexity {score.perplexity:.4f}  "
                f"({score.right}/{score.cases}, {score.prompt_tokens:,.0f} prompt tokens on average)"
            )
    if as_json:
        print_json([_told(score) for score in scores])


def _told(score: Score) -> dict[str, Any]:
    return {**dataclasses.asdict(score), "accuracy": score.accuracy, "perplexity": score.perplexity}
