"""`minimax-m1 inspect`: a model measured without its weights."""

from __future__ import annotations

from typing import Annotated

import typer

from minimax_m1.cli.options import AsJson, print_json

app = typer.Typer()


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help='A preset such as "minimax-m1", "nano", a folder, or a hub id.')],
    as_json: AsJson = False,
) -> None:
    """Measure a model without allocating it: names, parameters, memory, FLOPs."""
    from minimax_m1.model.inspect import inspect_model, render

    report = inspect_model(name)
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(render(report))
