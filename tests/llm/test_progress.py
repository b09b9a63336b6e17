"""The bar over many prompts."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from minimax_m1.engine.request import FinishReason, Request, TokenEvent
from minimax_m1.llm.job import Job
from minimax_m1.llm.progress import Bar
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def groups_of(words: MiniMaxM1Tokenizer, prompts: int, n: int) -> list[list[Job]]:
    return [[Job(Request(id=f"{p}.{i}", prompt=[1] * 100), words) for i in range(n)] for p in range(prompts)]


def shown(groups: Sequence[Sequence[Job]], events: int, *, terminal: bool = True, wanted: bool = True) -> str:
    """What a bar writes when the first `events` jobs have made two tokens each and ended."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with Bar(groups, shown=wanted, console=console) as bar:
        for job in [job for group in groups for job in group][:events]:
            for read, token, finish in ((60, None, None), (100, 5, None), (100, 6, FinishReason.STOP)):
                bar.hear(
                    job,
                    TokenEvent(
                        request_id=job.request.id,
                        token_id=token,
                        finish=finish,
                        prefilled_tokens=read,
                        cached_tokens=20,
                    ),
                )
        bar._since -= 1000  # so that a second more or less makes no difference to the speed
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_counts_prompts_and_tokens_that_were_computed(words: MiniMaxM1Tokenizer) -> None:
    said = shown(groups_of(words, 500, 2), 999)
    assert "499/500" in said  # one reply of the last prompt is still to come
    assert "in 80 tokens/s" in said and "out 2 tokens/s" in said


@pytest.mark.parametrize(("prompts", "terminal", "wanted"), [(3, True, True), (9, False, True), (9, True, False)])
def test_it_is_quiet_for_a_few_into_a_file_and_where_it_is_not_wanted(
    words: MiniMaxM1Tokenizer, prompts: int, terminal: bool, wanted: bool
) -> None:
    assert shown(groups_of(words, prompts, 1), 2, terminal=terminal, wanted=wanted) == ""
