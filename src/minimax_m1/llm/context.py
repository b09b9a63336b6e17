"""Contexts in words: a long text, or a conversation, read once, kept on disk, and asked about as often as one likes.

In: an `LLM`, a folder, texts or messages, later a question. Out: progress while it reads, then prompts for
`LLM.generate` and `LLM.stream` that begin with what is on disk. A text context is one user message kept open: the
texts, an empty line between them, then the question, exactly as `LLM.chat` would have it in one message.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.engine import manifest
from minimax_m1.engine.context import Context, check_model
from minimax_m1.engine.context_writer import ContextWriter
from minimax_m1.engine.manifest import Manifest
from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import CheckpointError, ContextLengthExceeded, RequestError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.streaming import BLOCK, TextSource

if TYPE_CHECKING:
    from minimax_m1.llm.llm import LLM
    from minimax_m1.llm.prompt import Message
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

SAVE_EVERY = 16_384  # tokens
_JOINT = "\n\n"  # an empty line between two texts, and between the text and the question
_MARK = "\U000f0000"  # stands for the user's text while the template is cut round it


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
    head, opening, _ = _halves(llm.get_tokenizer())
    before = _existing(llm, folder)
    if before is not None:
        _expect(folder, before, "text")
        if before.meta["start"] and not before.complete:
            raise CheckpointError(f"{folder} is being extended; finish that with the same `context extend`")
    ids = _encoded(llm, head, itertools.chain([opening], _joined(texts)), param="input")
    if before is not None and before.complete and len(ids) > before.tokens:
        Context.open(folder).check_begins(ids)
        raise CheckpointError(
            f"{folder} is complete with {before.tokens:,} tokens, and the text given now has {len(ids):,}; "
            "extend it, or give another folder"
        )
    meta = before.meta if before else {"kind": "text", "sources": [*texts], "start": 0, "model": model}
    return _read(llm, folder, ids, meta, created, save_every)


def extend(
    llm: LLM, folder: Path, texts: Mapping[str, TextSource], *, save_every: int = SAVE_EVERY
) -> Iterator[Progress]:
    """Reads more texts at the end of a complete context, or goes on with an extension that was cut short.

    Nothing is left to do where the context ends with just these texts already, as its last extension. Raises as
    `create` does.
    """
    context = open_context(llm, folder, partial=True)
    record = context.manifest
    _expect(folder, record, "text")
    start = int(record.meta["start"])
    if not record.complete and not start:
        raise CheckpointError(f"{folder} is not complete; finish it with the same `context create` first")
    meta, ids = record.meta, context.ids[:start]
    if start:
        ids = _encoded(llm, ids, itertools.chain([_JOINT], _joined(texts)), param="input")
    if record.complete and not np.array_equal(ids, context.ids):  # not the last extension once more, so a new one
        start = record.tokens
        ids = _encoded(llm, context.ids, itertools.chain([_JOINT], _joined(texts)), param="input")
        meta = {**meta, "start": start, "sources": [*meta["sources"], *texts]}
    return _read(llm, folder, ids, meta, record.created, save_every)


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
    before = _existing(llm, folder)
    if before is not None:
        _expect(folder, before, "chat")
    # What two different questions have in common, up to the last special token: no question changes that.
    tokenizer = llm.get_tokenizer()
    asked, other = (encode_chat(tokenizer, [*messages, {"role": "user", "content": text}]) for text in "ab")
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(asked, other, strict=True)))
    special = set(tokenizer.added_tokens.values())
    while common and asked[common - 1] not in special:
        common -= 1
    ids = _encoded(llm, asked[:common], [], param="messages")
    meta = {"kind": "chat", "messages": [dict(message) for message in messages], "model": model}
    return _read(llm, folder, ids, meta, created, save_every)


def open_context(llm: LLM, folder: Path, *, partial: bool = False) -> Context:
    """The context in `folder`, checked to be this model's and, unless `partial`, complete.

    Raises:
        CheckpointError: it is not.
    """
    context = Context.open(folder, fingerprint=llm.fingerprint, dtype=llm.dtype)
    record = context.manifest
    if not (partial or record.complete):
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
    tokenizer = llm.get_tokenizer()
    if context.manifest.meta["kind"] == "chat":
        ids = encode_chat(tokenizer, [*context.manifest.meta["messages"], {"role": "user", "content": text}])
        return {"prompt_token_ids": np.array(ids, np.int32), "past": context}
    _, _, closing_text = _halves(tokenizer)
    end, rest = _cut_before_special(tokenizer, closing_text)
    tail = [*tokenizer.encode(_JOINT + text + end, split_special=True), *tokenizer.encode(rest)]
    return {"prompt_token_ids": np.concatenate((context.ids, np.array(tail, np.int32))), "past": context}


def _read(
    llm: LLM, folder: Path, ids: NDArray[np.int32], meta: Mapping[str, Any], created: float, save_every: int
) -> Iterator[Progress]:
    """Has the model read what is not on disk yet; the folder is this process's alone until the iterator ends."""
    with ContextWriter(
        folder,
        ids,
        fingerprint=llm.fingerprint,
        dtype=llm.dtype,
        vocab_size=llm.get_tokenizer().vocab_size,
        created=created,
        meta=meta,
    ) as writer:
        yield Progress(tokens=writer.manifest.tokens, total=len(ids))
        if writer.manifest.complete:
            return
        prompt = {"prompt_token_ids": ids, "past": writer.past}
        params = SamplingParams(max_tokens=0)
        with closing(llm.stream(prompt, params, save=writer.save, save_every=save_every)) as events:
            for _, event in events:
                yield Progress(tokens=event.prefilled_tokens, total=len(ids))
        assert writer.manifest.complete


def _existing(llm: LLM, folder: Path) -> Manifest | None:
    """The manifest of this model's context in `folder`, where there is one."""
    if not (folder / manifest.NAME).exists():
        return None
    record = manifest.read(folder)
    check_model(folder, record, llm.fingerprint, llm.dtype)
    return record


def _expect(folder: Path, record: Manifest, kind: str) -> None:
    if (found := record.meta.get("kind")) != kind:
        raise CheckpointError(f"{folder} holds a context of the kind {found!r}; this needs one of the kind {kind!r}")


def _encoded(llm: LLM, head: Iterable[int], pieces: Iterable[str], *, param: str) -> NDArray[np.int32]:
    """`head`, then the pieces as one text without special tokens; refused as soon as it is too long."""
    blocks = [np.array(list(head), np.int32)]
    count, limit = len(blocks[0]), llm.max_model_len
    for block in itertools.chain([[]], llm.get_tokenizer().encode(pieces, stream=True, split_special=True)):
        count += len(block)
        if count >= limit:
            raise ContextLengthExceeded(
                f"the context has {limit:,} tokens or more, and the model takes {limit:,}, the question and "
                "its answer among them",
                param=param,
            )
        blocks.append(np.array(block, np.int32))
    return np.concatenate(blocks)


def _joined(texts: Mapping[str, TextSource]) -> Iterator[str]:
    """The texts with an empty line between two, each without the white space at its end."""
    for number, (name, source) in enumerate(texts.items()):
        empty = True
        held: list[str] = []  # white space that may be the last
        for piece in _pieces(name, source):
            if text := piece.rstrip():
                if empty and number:
                    yield _JOINT
                empty = False
                yield "".join([*held, text])
                held = []
            held.append(piece[len(text) :])
        if empty:
            raise RequestError(f"{name} holds no text", param="input")


def _pieces(name: str, source: TextSource) -> Iterator[str]:
    """A text as strings; a path is read as UTF-8 with its line ends as they are."""
    try:
        if isinstance(source, Path):
            with source.open(encoding="utf-8", newline="") as file:
                while piece := file.read(BLOCK):
                    yield piece
        elif isinstance(source, str):
            yield source
        else:
            yield from source
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: {error.reason}", param="input") from None


def _halves(tokenizer: MiniMaxM1Tokenizer) -> tuple[list[int], str, str]:
    """The chat template round a user's one message: ids before it, the words that open it, all that follows."""
    prompt: str = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    before, *after = prompt.split(_MARK)
    if len(after) != 1:
        raise RequestError(
            f"this model's chat template shows a user's message {len(after)} times; a context needs it once",
            param="messages",
        )
    ends = [before.rfind(name) + len(name) for name in tokenizer.added_tokens if name in before]
    cut = max(ends, default=0)
    return tokenizer.encode(before[:cut]), before[cut:], after[0]


def _cut_before_special(tokenizer: MiniMaxM1Tokenizer, text: str) -> tuple[str, str]:
    """The words before the first special token, and the rest."""
    cut = min((text.find(name) for name in tokenizer.added_tokens if name in text), default=len(text))
    return text[:cut], text[cut:]
