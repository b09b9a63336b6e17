"""`minimax-m1 train ...`: models are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minimax_m1.cli.evaluate import measure

app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="The recipe's name.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a field: --set tokens=1000000.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    cases: Annotated[int, typer.Option(min=0, help="Held-out cases a suite at the end; 0 for none.")] = 200,
) -> None:
    """Pretrain a model from a recipe, then measure it."""
    from minimax_m1.train.pretrain import main

    model = main(recipe, overrides or [], out, resume)
    typer.echo(f"the model is in {model}")
    if cases:
        measure(str(model), cases, 0, as_json=False)
