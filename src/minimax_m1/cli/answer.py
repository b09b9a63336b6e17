"""An answer on the screen as it comes: thoughts dim, calls coloured, and nothing that steers the terminal.

In: a model and a prompt. Out: text on stdout, and the content of the answer for who goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from minimax_m1.engine.request import SamplingParams
    from minimax_m1.llm import LLM
    from minimax_m1.llm.prompt import Prompt
    from minimax_m1.text.reply import Piece

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def tell(llm: LLM, prompt: Prompt, params: SamplingParams, *, stopped: Sequence[int] = (), plain: bool = False) -> str:
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
            write(console, f"{piece.name}({piece.arguments})" if called else piece.text, style)
            last = piece.kind

    with closing(llm.stream(prompt, params)) as events:
        for text, _ in events:
            if plain:
                write(console, text)
            else:
                show(parser.feed(text))
            if stopped:
                break
    show(parser.finish())
    console.print()
    return "".join(said)


def write(console: Console, text: str, style: str | None = None) -> None:
    """Text as it is into a pipe; on a terminal without control characters, so that no model steers it."""
    if console.is_terminal:
        console.out(text.translate(_CONTROLS), style=style, highlight=False, end="")
    else:
        console.file.write(text)
    console.file.flush()
