"""`minimax-m1 export`: a model as a file for another program, or as a folder with other weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from minimax_m1.cli.options import AsJson, Quantization, print_json
from minimax_m1.errors import RequestError

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help='"nano", a folder, or a hub id.')],
    to: Annotated[
        Literal["gguf", "safetensors"],
        typer.Option(help="gguf: one file for llama.cpp, Ollama, LM Studio; safetensors: a folder to serve."),
    ] = "gguf",
    kind: Annotated[
        Literal["f32", "bf16", "q8_0"] | None,
        typer.Option("--type", help="gguf: what weights are written as; default: what the model has."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="safetensors: of the weights that int8 leaves alone; default: what the model has."),
    ] = None,
    quantization: Quantization = None,
    out: Annotated[
        Path | None, typer.Option(help="What to write; default: NAME-TYPE.gguf, or a folder NAME-TYPE, here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model, its tokenizer and its chat template for another program, or with smaller weights."""
    if to == "gguf":
        if dtype is not None or quantization is not None:
            raise RequestError("--dtype and --quantization are for safetensors; gguf takes --type f32, bf16 or q8_0")
        _to_gguf(model, kind, out, as_json)
    else:
        if kind is not None:
            raise RequestError(f"--type {kind} is for gguf; safetensors take --dtype and --quantization int8")
        _to_folder(model, dtype or "auto", quantization, out, as_json)


def _to_gguf(model: str, kind: Literal["f32", "bf16", "q8_0"] | None, out: Path | None, as_json: bool) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise RequestError("this export needs the extra: pip install 'minimax-m1[gguf]'") from None
    from minimax_m1.export.gguf import export_gguf

    done = export_gguf(model, out, type=kind)
    if as_json:
        print_json({**asdict(done), "file": str(done.file)})
        return
    typer.echo(f"{done.file}: {done.tensors} tensors, {done.type}, {done.bytes / 1e6:,.1f} MB")
    if done.loose_merges:
        typer.echo(
            f"llama.cpp splits text by {done.split!r}, the nearest it has: {done.loose_merges} merges may join what "
            "this tokenizer keeps apart, so a few texts may get other tokens there",
            err=True,
        )


def _to_folder(model: str, dtype: str, quantization: str | None, out: Path | None, as_json: bool) -> None:
    from minimax_m1.export.folder import export_folder

    done = export_folder(model, out, dtype=dtype, quantization=quantization)
    if as_json:
        print_json({**asdict(done), "folder": str(done.folder)})
        return
    held = f"{done.quantization} and {done.dtype}" if done.quantization else done.dtype
    typer.echo(f"{done.folder}: {done.tensors} tensors, {held}, {done.bytes / 1e6:,.1f} MB")
