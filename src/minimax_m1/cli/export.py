"""`minimax-m1 export`: a model as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from minimax_m1.cli.options import AsJson, print_json
from minimax_m1.errors import RequestError

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help='"nano", a folder, or a hub id.')],
    to: Annotated[Literal["gguf"], typer.Option(help="For llama.cpp, Ollama and LM Studio: gguf.")] = "gguf",
    kind: Annotated[
        Literal["f32", "bf16", "q8_0"] | None,
        typer.Option("--type", help="What weights are written as; default: what the model has."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: NAME-TYPE.gguf here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model, its tokenizer and its chat template as one file for another program."""
    assert to == "gguf"
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise RequestError("this export needs the extra: pip install 'minimax-m1[gguf]'") from None
    from minimax_m1.export.gguf import export_gguf

    done = export_gguf(model, out, type=kind)
    if as_json:
        print_json(
            {
                "file": str(done.file),
                "type": done.type,
                "tensors": done.tensors,
                "bytes": done.bytes,
                "split": done.split,
                "loose_merges": done.loose_merges,
            }
        )
        return
    typer.echo(f"{done.file}: {done.tensors} tensors, {done.type}, {done.bytes / 1e6:,.1f} MB")
    if done.loose_merges:
        typer.echo(
            f"llama.cpp splits text by {done.split!r}, the nearest it has: {done.loose_merges} merges may join what "
            "this tokenizer keeps apart, so a few texts may get other tokens there",
            err=True,
        )
