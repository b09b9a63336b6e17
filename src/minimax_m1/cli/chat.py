"""`minimax-m1 chat`: a conversation in the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from minimax_m1.cli.answer import tell
from minimax_m1.cli.options import (
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    Quantization,
    Seed,
    Temperature,
    Threshold,
    TopP,
    open_model,
)
from minimax_m1.errors import RequestError

app = typer.Typer()


@app.command()
def chat(
    model: Model = "nano",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    expert_threshold: Threshold = 1.0,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """Talk with the model; /reset starts anew, /quit leaves, Ctrl-C stops an answer."""
    llm, params = open_model(
        model, max_new_tokens, temperature, top_p, seed, expert_threshold, quantization, dtype, device
    )
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
                content = tell(llm, llm.chat_ids(asked), params, stopped=stopped)
        except RequestError as error:  # the conversation goes on without the turn that could not be answered
            typer.echo(f"minimax-m1: {error}", err=True)
            continue
        messages = [*asked, {"role": "assistant", "content": content}]


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
