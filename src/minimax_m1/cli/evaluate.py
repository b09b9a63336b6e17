"""`minimax-m1 eval`: held-out accuracy and perplexity, suite by suite, or the heat map of a fact in a long text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimax_m1.cli.options import AsJson, Device, Dtype, Quantization, print_json
from minimax_m1.errors import RequestError

if TYPE_CHECKING:
    from minimax_m1.eval.heatmap import Opened, Plan
    from minimax_m1.eval.held_out import Score

app = typer.Typer()

_CASES, _CELL = 200, 5  # by default, of a suite and of a cell of the heat map
_TEMPERATURE = 1.0  # of samples, by default


@app.command(name="eval")
def evaluate(
    name: Annotated[str, typer.Argument(help='"nano", a folder, or a hub id.')],
    suite: Annotated[
        list[str] | None, typer.Option(help="Only suites whose name begins so; may be given again. Default: all.")
    ] = None,
    cases: Annotated[
        int | None, typer.Option(min=1, help=f"Cases a suite, {_CASES} by default; of the heat map a cell, {_CELL}.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the cases.")] = 0,
    samples: Annotated[int, typer.Option(min=0, help="Sample so many answers to each case too, for pass@k.")] = 0,
    temperature: Annotated[float | None, typer.Option(help=f"Of these samples, {_TEMPERATURE:g} by default.")] = None,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Measure recall by length and depth instead.")] = False,
    lengths: Annotated[str, typer.Option(help="Heat map: tokens of the texts.")] = "1000,8000,32000,128000",
    depths: Annotated[str, typer.Option(help="Heat map: where the fact stands, in percent.")] = "0,25,50,75,100",
    facts: Annotated[int, typer.Option(min=0, help="Heat map: other facts of the same form in each text.")] = 0,
    out: Annotated[Path, typer.Option(help="Heat map: folder for heatmap.json and heatmap.png.")] = Path("heatmap"),
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out cases of the task families."""
    if not heatmap:
        count = _CASES if cases is None else cases
        heat = _TEMPERATURE if temperature is None else temperature
        measure(
            *(name, count, seed, as_json, quantization),
            dtype=dtype,
            device=device,
            suites=suite or (),
            samples=samples,
            temperature=heat,
        )
        return
    if suite or samples or temperature is not None:
        raise RequestError("--heatmap takes none of --suite, --samples and --temperature")
    from minimax_m1.eval.heatmap import Opened, Plan

    plan = Plan(
        lengths=tuple(int(each) for each in _numbers("lengths", lengths, whole=True)),
        depths=tuple(_numbers("depths", depths, whole=False)),
        cases=_CELL if cases is None else cases,
        facts=facts,
        seed=seed,
    )
    _draw(name, plan, out, as_json, Opened(dtype=dtype, device=device, quantization=quantization))


def measure(
    name: str,
    cases: int,
    seed: int,
    as_json: bool,
    quantization: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    suites: Sequence[str] = (),
    samples: int = 0,
    temperature: float = _TEMPERATURE,
) -> None:
    """One line a suite, as it is graded."""
    from minimax_m1.eval.held_out import evaluate
    from minimax_m1.eval.suites import choose
    from minimax_m1.llm import LLM

    chosen = choose(suites)
    llm = LLM(name, dtype=dtype, device=device, quantization=quantization)
    scores = []
    for score in evaluate(llm, chosen, cases=cases, seed=seed, samples=samples, temperature=temperature):
        scores.append(score)
        if not as_json:
            typer.echo(_line(score))
    if as_json:
        print_json([_told(score) for score in scores])


def _line(score: Score) -> str:
    sampled = f"  pass@{score.samples} {score.pass_at(score.samples):.1%}" if score.samples else ""
    bands = ", ".join(f"{right / count:.0%} at {band}" for band, (right, count) in score.bands.items())
    return (
        f"{score.name:28} {score.accuracy:7.1%}{sampled}  perplexity {score.perplexity:.4f}  "
        f"({score.right}/{score.cases}, {score.prompt_tokens:,.0f} prompt tokens on average"
        f"{f'; difficulty: {bands}' if bands else ''})"
    )


def _told(score: Score) -> dict[str, Any]:
    """The fields and what follows from them; pass@k for k = 1, 2, 4 ... and the number of samples."""
    powers = sorted({1 << bit for bit in range(score.samples.bit_length())} | {score.samples} - {0})
    passes = {"pass_at": {str(k): score.pass_at(k) for k in powers}} if score.samples else {}
    return {**dataclasses.asdict(score), "accuracy": score.accuracy, "perplexity": score.perplexity, **passes}


def _numbers(name: str, text: str, *, whole: bool) -> list[float]:
    """The numbers of a list with commas; raises RequestError for anything else."""
    kind = int if whole else float
    try:
        numbers = [float(kind(part)) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        numbered = "whole numbers" if whole else "numbers"
        raise RequestError(f"--{name} takes {numbered} with commas between them, got {text!r}", param=name)
    return numbers


def _draw(name: str, plan: Plan, out: Path, as_json: bool, opened: Opened) -> None:
    """The heat map: what it will take, a bar, a table, and the files."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from minimax_m1.eval.heatmap import measure, reading_speed, record, save, table
    from minimax_m1.llm import LLM
    from minimax_m1.train.curves import figure

    figure(1, 1)  # that drawing is possible is known before minutes are spent
    llm = LLM(name, dtype=opened.dtype, device=opened.device, quantization=opened.quantization)
    plan.check(llm.max_model_len)
    speed = reading_speed(llm)
    typer.echo(
        f"{plan.tokens:,} tokens to read in {plan.cases * len(plan.lengths)} texts: about "
        f"{max(1, round(plan.tokens / speed)):,} s at {speed:,.0f} tokens/s, more where texts are long",
        err=True,
    )
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.completed:,.0f} tokens"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=plan.tokens)
        found = measure(llm, plan, model=name, opened=opened, heard=lambda tokens: bar.advance(task, tokens))
    picture = save(found, out)
    if as_json:
        print_json(record(found))
    else:
        typer.echo(f"{table(found)}\n{found.seconds:,.0f} s; see {picture}")
