"""`minimax-m1 train ...`: models are made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minimax_m1.cli.evaluate import measure
from minimax_m1.cli.options import AsJson, Device, print_json

if TYPE_CHECKING:
    from minimax_m1.train.recipe import Stage

_TOLD = ("lines", "documents", "tokens", "said", "longest", "kinds", "unread", "faults", "more")

app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The recipe's name; an unknown one lists them all.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a field: --set tokens=1000000.")]
Data = Annotated[list[Path] | None, typer.Option("--data", help="A JSONL file of yours; may be given again.")]
Start = Annotated[str | None, typer.Option(help='The model to go on from: "nano", a folder, or a hub id.')]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; default runs/RECIPE.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the run in its folder stopped, by its own recipe.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out lines that cannot be used.")]
Cases = Annotated[int, typer.Option(min=0, help="Held-out cases a suite at the end; 0 for none.")]


@app.command()
def pretrain(
    recipe: Name,
    overrides: Overrides = None,
    data: Data = None,
    start: Start = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    cases: Cases = 0,
) -> None:
    """Train on whole texts, from random weights or from a model; longer texts by the same command."""
    _train("pretrain", recipe, overrides, data, start, out, resume, skip_bad, device, cases)


@app.command()
def sft(
    recipe: Name = "chats",
    overrides: Overrides = None,
    data: Data = None,
    start: Start = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    cases: Cases = 0,
) -> None:
    """Fine-tune a model on what the assistant says; --set lora_rank=8 trains adapters alone."""
    _train("sft", recipe, overrides, data, start, out, resume, skip_bad, device, cases)


@app.command()
def rl(
    recipe: Name = "prompts",
    overrides: Overrides = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="FILE.py:function=weight, family, format, environment, agreement, preference; repeatable."),
    ] = None,
    data: Data = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="A JSONL file of prompts to measure on; may be given again.")
    ] = None,
    environment: Annotated[str | None, typer.Option(help="FILE.py:Class, tools for several turns.")] = None,
    start: Start = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    cases: Cases = 0,
) -> None:
    """Reinforcement learning: CISPO, or --set algorithm=grpo, dapo, reinforce, by rewards of yours."""
    settings = list(overrides or [])
    if reward:
        settings.append(f"rewards={json.dumps(reward)}")
    if held_out:
        settings.append(f"held_out={json.dumps([str(file) for file in held_out])}")
    if environment is not None:
        settings.append(f"environment={json.dumps(environment)}")
    _train("rl", recipe, settings, data, start, out, resume, skip_bad, device, cases)


def _train(
    stage: Stage | Literal["rl"],
    name: str,
    overrides: list[str] | None,
    data: list[Path] | None,
    start: str | None,
    out: Path | None,
    resume: bool,
    skip_bad: bool,
    device: str,
    cases: int,
) -> None:
    from minimax_m1.train import loop
    from minimax_m1.train.recipes import recipe, rl_recipe

    settings = list(overrides or [])
    if data:
        settings.append(f"data={json.dumps([str(file) for file in data])}")
    if start is not None:
        settings.append(f"start={json.dumps(start)}")
    folder = out or Path("runs") / name
    if resume:
        model = loop.resume(folder, settings, device=device)
    else:
        plan = rl_recipe(name, settings) if stage == "rl" else recipe(name, settings, stage)
        model = loop.train(plan, folder, device=device, skip_bad=skip_bad)
    typer.echo(f"the model is in {model}")
    if cases:
        measure(str(model), cases, 0, as_json=False, device=device)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="JSONL files.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Whose tokenizer counts.")] = "nano",
    length: Annotated[int, typer.Option(min=2, help="Most tokens of a document.")] = 4096,
    as_json: AsJson = False,
) -> None:
    """Read files as training would: how many tokens of what kind, and every line that cannot be used."""
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
    from minimax_m1.train.check import check as read

    report = read(files, MiniMaxM1Tokenizer.from_pretrained(model), length)
    if as_json:
        told = {name: getattr(report, name) for name in _TOLD}
        print_json({**told, "unusable": [str(path) for path in report.unusable]})
    else:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items()) or "nothing"
        typer.echo(
            f"{kinds}: {report.tokens:,} tokens, {report.said:,} learned in full, {report.longest:,} the longest"
        )
        for key, count in report.unread.items():
            typer.echo(f"{count:,} lines have a key that nothing reads: {key}")
        for fault in report.faults:
            typer.echo(fault)
        if report.more:
            typer.echo(f"and {report.more:,} more")
    if report.faults:
        raise typer.Exit(2)


@app.command()
def curves(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Draw a run's metrics.jsonl as curves.png, with the points in curves.json."""
    from minimax_m1.train.curves import draw

    draw(folder)
    typer.echo(f"{folder / 'curves.png'}")
