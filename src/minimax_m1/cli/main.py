"""The command line, `minimax-m1 ...`: the family of commands, and the one boundary for errors.

In: arguments. Out: text on stdout, or one JSON object with `--json`; what was wrong with bad input as
one sentence on stderr with exit code 2; exit code 130 after Ctrl-C. Imports stand inside each command,
so that `--help` loads no torch.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from minimax_m1.cli import bench, chat, context, evaluate, export, generate, inspect, serve, train
from minimax_m1.errors import MiniMaxError


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
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's own, which is not loaded here
                raise
            typer.echo(f"minimax-m1: {str(error).splitlines()[0]}", err=True)
            raise typer.Exit(2) from None
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
app.add_typer(generate.app)
app.add_typer(chat.app)
app.add_typer(context.app, name="context")
app.add_typer(serve.app)
app.add_typer(inspect.app)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app)
app.add_typer(export.app)
app.add_typer(bench.app)


def main() -> None:
    """The console script."""
    # OpenMP, which torch loads, lets a waiting thread spin for milliseconds. With another program on the same cores
    # the one that is waited for cannot run meanwhile, and decoding takes a hundred times as long; so it gives way soon.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    app(prog_name="minimax-m1")
