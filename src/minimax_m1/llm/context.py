"""Contexts for an `LLM`: a long text, or a conversation, read once, kept on disk, asked about as often as one likes.

In: an `LLM`, a folder, texts or messages, later a question. Out: progress while it reads, then prompts for
`LLM.generate` and `LLM.stream` that begin with what is on disk. `text.document` says what the prompts are,
`engine.reading` what a folder can take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minimax_m1.engine import reading
from minimax_m1.engine.context import Context
from minimax_m1.engine.reading import Owner, Reading
from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.text.document import chat_ids, continued, tail_ids, text_ids
from minimax_m1.text.streaming import TextSource

if TYPE_CHECKING:
    from minimax_m1.llm.llm import LLM
    from minimax_m1.llm.prompt import Message

SAVE_EVERY = 16_384  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`tokens` of the `total` have been read."""

    tokens: int
    total: int


def create(
    llm: LLM,
    folder: Path,
    texts: Mapping[str, TextSource],
    *,
    created: float,
    save_every: int = SAVE_EVERY,
    model: str | None = None,
) -> Iterator[Progress]:
    """Reads texts, by name, into a new context, or goes on with one that was cut short.

    Checks at once, reads as it is iterated. Every `save_every` tokens what was read is safe on disk. White space at
    the end of a text is dropped. Nothing is left to do where the same texts are there already. `created` is in
    seconds since 1970; `model` is the name to open the model by, kept for those who ask.

    Raises:
        RequestError, ContextLengthExceeded: a text is empty or no UTF-8, or they are too long together.
        CheckpointError: the folder holds another text, another model's context or something else.
    """

    def ids() -> reading.Ids:
        return text_ids(llm.get_tokenizer(), texts, limit=llm.max_model_len)

    made = reading.create_text(folder, _owner(llm), ids, sources=[*texts], created=created, model=model)
    return _read(llm, made, save_every)


def extend(
    llm: LLM, folder: Path, texts: Mapping[str, TextSource], *, save_every: int = SAVE_EVERY
) -> Iterator[Progress]:
    """Reads more texts at the end of a complete context, or goes on with an extension that was cut short.

    Nothing is left to do where the context ends with just these texts already, as its last extension. Raises as
    `create` does.
    """

    def tail() -> reading.Ids:
        return tail_ids(llm.get_tokenizer(), texts, limit=llm.max_model_len)

    made = reading.extend_text(folder, _owner(llm), tail, sources=[*texts], limit=llm.max_model_len)
    return _read(llm, made, save_every)


def create_chat(
    llm: LLM,
    folder: Path,
    messages: Sequence[Message],
    *,
    created: float,
    save_every: int = SAVE_EVERY,
    model: str | None = None,
) -> Iterator[Progress]:
    """Reads a conversation into a context, or goes on; one that begins with the messages there extends it.

    Raises as `create` does.
    """

    def ids() -> reading.Ids:
        return chat_ids(llm.get_tokenizer(), messages, limit=llm.max_model_len)

    made = reading.create_chat(folder, _owner(llm), ids, messages=messages, created=created, model=model)
    return _read(llm, made, save_every)


def open_context(llm: LLM, folder: Path) -> Context:
    """The context in `folder`; raises CheckpointError unless it is this model's and complete."""
    context = Context.open(folder, fingerprint=llm.fingerprint, dtype=llm.dtype)
    record = context.manifest
    if not record.complete:
        raise CheckpointError(
            f"{folder} is not complete: {record.tokens:,} of its {record.total:,} tokens have been read; "
            "the command that began it goes on with it"
        )
    return context


def question(llm: LLM, context: Context, text: str) -> dict[str, Any]:
    """A prompt for `LLM.generate` or `LLM.stream` that asks `text` of a context.

    Raises:
        RequestError: the question is empty.
    """
    if not text:
        raise RequestError("the question is empty; it needs at least 1 character", param="question")
    messages = [{"role": "user", "content": text}]
    ids = continued(llm.get_tokenizer(), context.manifest.meta, context.ids, messages)
    return {"prompt_token_ids": np.array(ids, np.int32), "past": context}


def _owner(llm: LLM) -> Owner:
    return Owner(fingerprint=llm.fingerprint, dtype=llm.dtype, vocab_size=llm.get_tokenizer().vocab_size)


def _read(llm: LLM, made: Reading, save_every: int) -> Iterator[Progress]:
    """Has the model read what is not on disk yet; the folder is this process's alone until the iterator ends."""
    total = len(made.ids)
    with made.writer() as writer:
        yield Progress(tokens=writer.manifest.tokens, total=total)
        if writer.manifest.complete:
            return
        prompt = {"prompt_token_ids": made.ids, "past": writer.past}
        params = SamplingParams(max_tokens=0)
        with closing(llm.stream(prompt, params, save=writer.save, save_every=save_every)) as events:
            for _, event in events:
                yield Progress(tokens=event.prefilled_tokens, total=total)
        assert writer.manifest.complete
