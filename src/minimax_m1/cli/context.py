"""`minimax-m1 context ...`: a text read once, kept on disk, asked about in any later process.

In: files, a folder for the context, questions. Out: progress, answers, lists. A bare name such as "book" lies under
`MINIMAX_M1_HOME/contexts`; what has a slash or an extension, such as "book.ctx", is a path.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimax_m1.cli.answer import tell
from minimax_m1.cli.options import (
    AsJson,
    Device,
    Dtype,
    MaxNewTokens,
    Quantization,
    Seed,
    Temperature,
    Threshold,
    TopP,
    open_model,
    print_json,
)
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.location import home_folder

if TYPE_CHECKING:
    from minimax_m1.engine.manifest import Manifest
    from minimax_m1.llm.context import Progress
    from minimax_m1.text.streaming import TextSource

app = typer.Typer(help="Read a text once, keep it on disk, ask about it.", no_args_is_help=True, rich_markup_mode=None)

_EVERY = 10.0  # seconds between two lines of progress where there is no terminal

Files = Annotated[list[str], typer.Argument(metavar="FILE", help='UTF-8 texts, in order; "-" is stdin.')]
Folder = Annotated[str, typer.Argument(metavar="CONTEXT", help='A name, or a path such as "book.ctx".')]
SaveEvery = Annotated[int, typer.Option(min=1, help="Tokens between two saves.")]
Named = Annotated[str | None, typer.Option("--model", "-m", help="Default: the one that the context was read by.")]


@app.command()
def create(
    files: Files,
    out: Annotated[str, typer.Option(help='Where to put the context: a name, or a path such as "book.ctx".')],
    model: Annotated[str, typer.Option("--model", "-m", help='"nano", a folder, or a hub id.')] = "nano",
    save_every: SaveEvery = 16_384,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """Read texts into a context; after a kill, the same command goes on from the last save."""
    from minimax_m1.llm import LLM
    from minimax_m1.llm import context as contexts

    folder, texts = _place(out), _texts(files)
    name = str(Path(model).expanduser().resolve()) if model != "nano" and Path(model).expanduser().is_dir() else model
    llm = LLM(model, dtype=dtype, device=device, quantization=quantization)
    steps = contexts.create(llm, folder, texts, created=time.time(), save_every=save_every, model=name)
    _follow(steps, folder)


@app.command()
def extend(
    folder: Folder,
    files: Files,
    model: Named = None,
    save_every: SaveEvery = 16_384,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """Read more texts at the end of a context."""
    from minimax_m1.llm import LLM
    from minimax_m1.llm import context as contexts

    place, texts = _place(folder), _texts(files)
    llm = LLM(_model_of(place, model), dtype=dtype, device=device, quantization=quantization)
    _follow(contexts.extend(llm, place, texts, save_every=save_every), place)


@app.command()
def ask(
    folder: Folder,
    question: Annotated[str, typer.Argument(help='What to ask; "-" reads it from stdin.')],
    model: Named = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    expert_threshold: Threshold = 1.0,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer a question about a context without reading it again; the context stays as it is."""
    from minimax_m1.llm import context as contexts
    from minimax_m1.text.reply import parse_reply

    place = _place(folder)
    text = sys.stdin.read() if question == "-" else question
    name = _model_of(place, model)
    llm, params = open_model(
        name, max_new_tokens, temperature, top_p, seed, expert_threshold, quantization, dtype, device
    )
    started = time.perf_counter()
    prompt = contexts.question(llm, contexts.open_context(llm, place), text)
    if not as_json:
        tell(llm, prompt, params)
        return
    told, first, made = [], None, 0
    for piece, event in llm.stream(prompt, params):
        told.append(piece)
        if event.token_id is not None:
            first = first or time.perf_counter() - started
            made += 1
    usage = {"input_tokens": event.prompt_tokens, "cached_tokens": event.cached_tokens, "output_tokens": made}
    reply = dataclasses.asdict(parse_reply("".join(told)))
    finish = {"finish_reason": event.finish, "usage": usage, "seconds_to_first_token": first}
    print_json({"model": name, "context": str(place), **reply, **finish})


@app.command()
def branch(folder: Folder, new: Annotated[str, typer.Argument(help="The new context.")]) -> None:
    """Make a second context of one; neither sees what later happens to the other."""
    from minimax_m1.engine import context as contexts

    contexts.branch(_place(folder), _place(new))


@app.command(name="list")
def list_contexts(
    folder: Annotated[str | None, typer.Argument(help="Where to look; default: where bare names lie.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the contexts of a folder."""
    from minimax_m1.engine import context as contexts

    found = list(contexts.contexts(_home() if folder is None else Path(folder).expanduser()))
    if as_json:
        print_json([_described(path, each) for path, each in found])
        return
    for path, each in found:
        if isinstance(each, CheckpointError):
            typer.echo(f"{path.name:24} {each}")
        else:
            typer.echo(f"{path.name:24} {_extent(each):>32}  {_size(each.nbytes):>9}  {_day(each.created)}")


@app.command()
def show(
    folder: Folder,
    as_json: AsJson = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte and compare its hash.")] = False,
) -> None:
    """Tell what a context holds."""
    from minimax_m1.engine import manifest
    from minimax_m1.engine.context import Context

    place = _place(folder)
    record = manifest.read(place)
    if verify and record.tokens:
        Context.open(place).verify()
    if as_json:
        print_json({**_described(place, record), **({"verified": True} if verify else {})})
        return
    typer.echo(f"{place}: {_extent(record)}, {_size(record.nbytes)} in {len(record.files)} files")
    typer.echo(f"read by {record.meta.get('model') or 'a model'} ({record.fingerprint[:12]}, {record.dtype})")
    typer.echo(f"begun {_day(record.created)}")
    for source in record.meta.get("sources", ()):
        typer.echo(f"from {source}")
    if verify:
        typer.echo("every file is as it was written")


@app.command()
def delete(folder: Folder, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove a context from the disk."""
    from minimax_m1.engine import context as contexts
    from minimax_m1.engine import manifest

    place = _place(folder)
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError("deleting needs --yes where nobody can be asked", param="yes")
        typer.confirm(f"delete {place} with {_extent(manifest.read(place))}?", abort=True)
    contexts.delete(place)


def _home() -> Path:
    return home_folder() / "contexts"


def _place(name: str) -> Path:
    """A bare name lies at home; anything with a slash or an extension is a path."""
    if not name:
        raise RequestError("the name of a context is empty; it needs at least 1 character", param="context")
    path = Path(name).expanduser()
    return path if "/" in name or path.suffix or name in (".", "..") else _home() / name


def _texts(files: list[str]) -> dict[str, TextSource]:
    """The texts by name; a text that is given twice is read twice."""
    if files.count("-") > 1:
        raise RequestError('"-" may stand once: stdin is read only once', param="files")
    texts: dict[str, TextSource] = {}
    for name in files:
        shown = name
        while shown in texts:
            shown += " again"
        texts[shown] = io.TextIOWrapper(sys.stdin.buffer, "utf-8", newline="") if name == "-" else Path(name)
    return texts


def _model_of(place: Path, given: str | None) -> str:
    """The model to open a context by: the given one, else the one that read it."""
    from minimax_m1.engine import manifest

    if given is not None:
        return given
    name = manifest.read(place).meta.get("model")
    if not name:
        raise RequestError(f"{place} does not say which model read it; give --model", param="model")
    return str(name)


def _follow(steps: Iterator[Progress], place: Path) -> None:
    """Shows a reading as it goes, and what came of it."""
    from rich.console import Console

    console = Console(stderr=True)
    started = told = time.monotonic()
    begun = None
    with _bar(console) as bar:
        task = bar.add_task("reading", total=None, speed="")
        for step in steps:
            now = time.monotonic()
            begun = step.tokens if begun is None else begun
            speed = (step.tokens - begun) / max(now - started, 1e-9)
            bar.update(task, total=step.total, completed=step.tokens, speed=f"{speed:,.0f} tokens/s")
            if not console.is_terminal and now - told > _EVERY and speed:
                told = now
                left = (step.total - step.tokens) / speed
                console.print(
                    f"{step.tokens:,} of {step.total:,} tokens, {speed:,.0f} tokens/s, {left:,.0f} s left",
                    highlight=False,
                    soft_wrap=True,
                )
    if begun == step.total:
        typer.echo(f"{place} holds all {step.total:,} tokens already")
        return
    seconds = time.monotonic() - started
    typer.echo(
        f"{place} holds {step.total:,} tokens; {step.total - (begun or 0):,} of them read now "
        f"in {seconds:,.1f} s, {speed:,.0f} tokens/s"
    )


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


def _described(path: Path, each: Manifest | CheckpointError) -> dict[str, Any]:
    if isinstance(each, CheckpointError):
        return {"context": str(path), "error": str(each)}
    return {
        "context": str(path),
        "tokens": each.tokens,
        "total": each.total,
        "complete": each.complete,
        "bytes": each.nbytes,
        "files": list(each.files),
        "created": each.created,
        "fingerprint": each.fingerprint,
        "dtype": each.dtype,
        "meta": dict(each.meta),
    }


def _extent(record: Manifest) -> str:
    if record.complete:
        return f"{record.tokens:,} tokens"
    return f"{record.tokens:,} of {record.total:,} tokens"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
