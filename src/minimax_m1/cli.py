"""The command line: `minimax-m1 generate | chat | serve | inspect | train | eval`.

In: arguments. Out: text on stdout, or one JSON object with `--json`; what was wrong with bad input as
one sentence on stderr with exit code 2; exit code 130 after Ctrl-C. Imports stand inside each command,
so that `--help` loads no torch.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from minimax_m1.errors import MiniMaxError, RequestError

if TYPE_CHECKING:
    import socket

    from rich.console import Console

    from minimax_m1.engine.request import SamplingParams, TokenEvent
    from minimax_m1.llm import LLM
    from minimax_m1.text.reply import Piece


class _Group(TyperGroup):
    """The one place where an exception becomes a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MiniMaxError as error:
            typer.echo(f"minimax-m1: {error}", err=True)
            raise typer.Exit(2) from None
        except BrokenPipeError:  # the reader of our output left, as `head` does
            sys.stderr.close()
            raise typer.Exit(0) from None
        except OSError as error:
            typer.echo(f"minimax-m1: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Train, run and serve models of the MiniMax-M1 family.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

Model = Annotated[str, typer.Option("--model", "-m", help='"nano", a folder, or a hub id.')]
MaxNewTokens = Annotated[int | None, typer.Option(help="Most tokens to make; default: the model's own.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; default: the model's own.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the likeliest tokens of this total probability.")]
Threshold = Annotated[float, typer.Option(help="Share of the gate to keep, in (0, 1]; lower is faster.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
MaxModelLen = Annotated[int | None, typer.Option(help="Most tokens of input and output; default: the model's limit.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help='What to ask; "-" reads it from stdin.')],
    model: Model = "nano",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it stands, no chat format.")] = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    expert_threshold: Threshold = 1.0,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt."""
    from minimax_m1.text.reply import parse_reply

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise RequestError("the prompt is empty; it needs at least 1 character", param="prompt")
    llm, params = _open(model, max_new_tokens, temperature, top_p, seed, expert_threshold)
    ids = llm.get_tokenizer().encode(text) if raw else llm.chat_ids([{"role": "user", "content": text}])
    if not as_json:
        _tell(llm, ids, params, plain=raw)
        return
    [output] = llm.generate([ids], params, routing=True)
    [made] = output.outputs
    reply = {"text": made.text} if raw else dataclasses.asdict(parse_reply(made.text))
    usage = {"input_tokens": len(ids), "output_tokens": len(made.token_ids)}
    routing = None if made.routing is None else made.routing.report()
    _print_json({"model": model, **reply, "finish_reason": made.finish_reason, "usage": usage, "routing": routing})


@app.command()
def chat(
    model: Model = "nano",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    expert_threshold: Threshold = 1.0,
) -> None:
    """Talk with the model; /reset starts anew, /quit leaves, Ctrl-C stops an answer."""
    llm, params = _open(model, max_new_tokens, temperature, top_p, seed, expert_threshold)
    start = [{"role": "system", "content": system}] if system else []
    messages: list[dict[str, Any]] = list(start)
    if sys.stdin.isatty():
        typer.echo(f"{model}: /reset starts anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer.")
    for line in _lines():
        if line in ("/quit", "/exit"):
            return
        if line == "/reset":
            messages = list(start)
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            with _stoppable() as stopped:
                content = _tell(llm, llm.chat_ids(asked), params, stopped=stopped)
        except RequestError as error:  # the conversation goes on without the turn that could not be answered
            typer.echo(f"minimax-m1: {error}", err=True)
            continue
        messages = [*asked, {"role": "assistant", "content": content}]


@app.command()
def serve(
    model: Model = "nano",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    max_model_len: MaxModelLen = None,
    name: Annotated[str | None, typer.Option("--served-name", help="What clients call the model.")] = None,
    dtype: Annotated[
        str, typer.Option(help='Of the weights, such as "bfloat16"; "auto" is the checkpoint\'s.')
    ] = "auto",
    device: Annotated[str, typer.Option(help='Such as "cpu" or "cuda".')] = "cpu",
    body_limit: Annotated[int, typer.Option(min=1, help="Most MiB of one request's body.")] = 64,
) -> None:
    """Answer over HTTP, natively and as OpenAI does."""
    try:
        import uvicorn
    except ImportError:
        raise RequestError("serving needs the extra: pip install 'minimax-m1[serve]'") from None
    from minimax_m1.location import locate
    from minimax_m1.serve.app import create_app
    from minimax_m1.serve.bridge import Loaded

    folder = locate(model)
    served = name or (folder.resolve().name if Path(model).is_dir() else model)
    listener = _listener(host, port)
    bound: tuple[str, int] = listener.getsockname()[:2]
    failures: list[Exception] = []

    def load() -> Loaded:
        from minimax_m1.serve.loading import load as load_model

        try:
            return load_model(folder, dtype=dtype, device=device, max_model_len=max_model_len)
        except Exception as error:  # carried to the main thread, which ends the program with it
            failures.append(error)
            server.should_exit = True
            raise

    def ready(loaded: Loaded) -> None:
        _announce(*bound, served, loaded.engine.max_model_len, loaded.kernels)

    application = create_app(load, name=served, ready=ready, body_limit=body_limit * 2**20)
    server = uvicorn.Server(uvicorn.Config(application, timeout_graceful_shutdown=3))
    with listener:
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help='A preset such as "minimax-m1", "nano", a folder, or a hub id.')],
    as_json: AsJson = False,
) -> None:
    """Measure a model without allocating it: names, parameters, memory, FLOPs."""
    from minimax_m1.model.inspect import inspect_model, render

    report = inspect_model(name)
    if as_json:
        _print_json(report.to_dict())
    else:
        typer.echo(render(report))


@train.command()
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
        _measure(str(model), cases, 0, as_json=False)


@app.command(name="eval")
def evaluate(
    name: Annotated[str, typer.Argument(help='"nano", a folder, or a hub id.')],
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases a suite.")] = 200,
    seed: Annotated[int, typer.Option(help="Chooses the cases.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out cases of the task families."""
    _measure(name, cases, seed, as_json)


def main() -> None:
    """The console script."""
    app(prog_name="minimax-m1")


def _measure(name: str, cases: int, seed: int, as_json: bool) -> None:
    """One line a suite, as it is graded."""
    from minimax_m1.eval.held_out import evaluate
    from minimax_m1.llm import LLM

    scores = []
    for score in evaluate(LLM(name), cases=cases, seed=seed):
        scores.append(score)
        if not as_json:
            typer.echo(
                f"{score.name:26} {score.accuracy:7.1%}  ({score.right}/{score.cases}, "
                f"{score.prompt_tokens:,.0f} prompt tokens on average)"
            )
    if as_json:
        _print_json([{**dataclasses.asdict(score), "accuracy": score.accuracy} for score in scores])


def _open(
    model: str,
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    expert_threshold: float,
) -> tuple[LLM, SamplingParams]:
    """The model, and its own sampling settings with what the user gave put over them."""
    from minimax_m1.llm import LLM
    from minimax_m1.location import locate
    from minimax_m1.serve.loading import defaults

    folder = locate(model)
    llm = LLM(str(folder))
    given: Mapping[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    return llm, dataclasses.replace(defaults(folder, llm.max_model_len), expert_threshold=expert_threshold, **given)


def _tell(llm: LLM, ids: list[int], params: SamplingParams, *, stopped: Sequence[int] = (), plain: bool = False) -> str:
    """Writes an answer as it comes and returns its content; ends early once there is something in `stopped`.

    Thoughts are dim on a terminal and left out of a pipe; `plain` shows the text as it was made.
    """
    from rich.console import Console

    from minimax_m1.text.reply import ReplyParser

    console, parser = Console(highlight=False, soft_wrap=True), ReplyParser(tools=True)
    said: list[str] = []
    last = ""  # the kind of the last piece shown

    def show(pieces: Sequence[Piece]) -> None:
        nonlocal last
        for piece in pieces:
            if piece.kind == "content":
                said.append(piece.text)
            if piece.kind == "reasoning" and not console.is_terminal:
                continue
            if last and (piece.kind != last or piece.kind == "tool_call"):
                console.print()
            called = piece.kind == "tool_call"
            style = {"reasoning": "dim", "tool_call": "cyan"}.get(piece.kind)
            _write(console, f"{piece.name}({piece.arguments})" if called else piece.text, style)
            last = piece.kind

    stream = cast("Generator[tuple[str, TokenEvent]]", llm.stream(ids, params))  # an iterator that can be closed
    with closing(stream) as events:
        for text, _ in events:
            if plain:
                _write(console, text)
            else:
                show(parser.feed(text))
            if stopped:
                break
    show(parser.finish())
    console.print()
    return "".join(said)


def _write(console: Console, text: str, style: str | None = None) -> None:
    """Text as it is into a pipe; on a terminal without control characters, so that no model steers it."""
    if console.is_terminal:
        console.out(text.translate(_CONTROLS), style=style, highlight=False, end="")
    else:
        console.file.write(text)
    console.file.flush()


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Ctrl-C fills the list instead of ending the program; a second one ends it after all."""
    caught: list[int] = []

    def note(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """What the user writes, line by line until the end of input; empty lines are passed over."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):  # gives `input` its line editing, where there is one
            import readline  # noqa: F401
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            if terminal:
                typer.echo()
            return
        except KeyboardInterrupt:  # drops the line, as in a shell
            typer.echo()
            continue
        if line.strip():
            yield line.strip()


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before a model is loaded."""
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise RequestError(f"cannot listen on {host} port {port}: {error.strerror}", param="port") from None


def _announce(host: str, port: int, name: str, max_model_len: int, kernels: str) -> None:
    """Says where the server is, with a line that works as it stands."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = json.dumps({"input": "What is 17 + 25?"})
    typer.echo(f"{name} answers at {address} (up to {max_model_len} tokens; kernels: {kernels}). Try:")
    typer.echo(f"curl {address}/v1/minimax-m1/generate -H 'content-type: application/json' -d '{body}'")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
