"""Contexts in words: the joint with the question, texts in pieces, and reading that goes on after any stop."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders

from minimax_m1.engine.context import Context
from minimax_m1.engine.request import FinishReason, SamplingParams, TokenEvent
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError, ContextLengthExceeded, RequestError
from minimax_m1.llm import LLM
from minimax_m1.llm import context as contexts
from minimax_m1.tasks.recall import needle
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import FAMILY_SPECIALS, published_pre_tokenizer

STORY = "The old farmer walked to the river. The code of lamu is 4711.\nIt rained, and rained again.\n"


class Reader:
    """Has what contexts need of an `LLM`, with a state that is a running sum of the ids."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, *, max_model_len: int = 100_000, stop_after: int = 10**9) -> None:
        self._tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.fingerprint = "f" * 64
        self.dtype = "float32"
        self.stop_after = stop_after  # tokens; a reader that dies there
        self.read: list[int] = []  # how many tokens each reading had to read

    def get_tokenizer(self) -> MiniMaxM1Tokenizer:
        return self._tokenizer

    def stream(
        self, prompt: Any, params: SamplingParams, *, save: Any, save_every: int
    ) -> Generator[tuple[str, TokenEvent]]:
        ids, past = np.asarray(prompt["prompt_token_ids"]), prompt["past"]
        start, total = 0, 0
        if past is not None:
            start = len(past.ids)
            assert past.ids.tolist() == ids[:start].tolist()
            [state] = past.load(lambda begin, keys_values: None)
            total = int(state.item())
        self.read.append(len(ids) - start)
        for stop in [*range(start + save_every, len(ids), save_every), len(ids)]:
            if stop > self.stop_after:
                raise RequestError("the reader died")
            total += int(ids[start:stop].sum())
            here = torch.from_numpy(ids[start:stop].astype(np.float32)).view(1, -1, 1, 1).expand(2, -1, 1, 1)
            save(
                Snapshot(start=start, stop=stop, lightning=(torch.full((1, 1, 1), float(total)),), keys_values=(here,))
            )
            start = stop
            yield "", TokenEvent(request_id="0", token_id=None, prompt_tokens=len(ids), prefilled_tokens=stop)
        yield "", TokenEvent(request_id="0", token_id=None, finish=FinishReason.LENGTH, prefilled_tokens=len(ids))


@pytest.fixture(scope="module")
def nano() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.from_pretrained("nano")


@pytest.fixture(scope="module")
def published() -> MiniMaxM1Tokenizer:
    """A small vocabulary with the published split and the published specials' names."""
    small = MiniMaxM1Tokenizer.train([STORY * 3, "\n\n \n  ... one. Two"], vocab_size=400)
    backend = Tokenizer(small.backend.model)
    backend.pre_tokenizer = published_pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(name, special=True, normalized=False) for name in FAMILY_SPECIALS])
    return MiniMaxM1Tokenizer(backend, {"bos_token": "<beginning_of_sentence>", "eos_token": "<end_of_sentence>"})


def llm_of(reader: Reader) -> LLM:
    return cast(LLM, reader)


def read(steps: Iterator[contexts.Progress]) -> list[contexts.Progress]:
    return list(steps)


def create(reader: Reader, folder: Path, *texts: Any, save_every: int = 20) -> list[contexts.Progress]:
    named = {f"text {number}": text for number, text in enumerate(texts)}
    return read(contexts.create(llm_of(reader), folder, named, created=1.0, save_every=save_every, model="nano"))


def asked(reader: Reader, folder: Path, question: str) -> list[int]:
    llm = llm_of(reader)
    prompt = contexts.question(llm, contexts.open_context(llm, folder), question)
    return [int(token) for token in prompt["prompt_token_ids"]]


def chat(reader: Reader, content: str) -> list[int]:
    ids: list[int] = reader.get_tokenizer().apply_chat_template([{"role": "user", "content": content}])
    return ids


@pytest.mark.parametrize("words", ["nano", "published"])
@pytest.mark.parametrize("question", ["What is the code of lamu?", "</think><end_of_sentence>\n", " \n odd", "."])
def test_asking_is_the_chat_prompt_with_text_and_question_in_one_message(
    request: pytest.FixtureRequest, tmp_path: Path, words: str, question: str
) -> None:
    reader = Reader(request.getfixturevalue(words))
    text = f"<end_of_sentence>{STORY}<beginning_of_sentence>ai name=assistant\n</think>{STORY}"
    create(reader, tmp_path, text)
    assert asked(reader, tmp_path, question) == chat(reader, f"{text.rstrip()}\n\n{question}")


def test_the_joint_is_the_one_that_nano_was_taught(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    import random

    example = needle(random.Random(3), 300, 0.4)
    content: str = example.messages[0]["content"]
    text, _, question = content.rpartition("\n\n")
    reader = Reader(nano)
    create(reader, tmp_path, text + "\n")
    assert asked(reader, tmp_path, question) == chat(reader, content)


pieces = st.lists(st.text(alphabet="a .\n\t<>_begin1é漢", max_size=8), min_size=1, max_size=6)


@settings(max_examples=60)
@given(texts=st.lists(pieces.filter(lambda p: "".join(p).strip()), min_size=1, max_size=3), small=st.booleans())
def test_texts_in_any_pieces_make_the_ids_of_one_message(
    tmp_path_factory: pytest.TempPathFactory,
    nano: MiniMaxM1Tokenizer,
    published: MiniMaxM1Tokenizer,
    texts: list[list[str]],
    small: bool,
) -> None:
    reader = Reader(nano if small else published)
    folder = tmp_path_factory.mktemp("context")
    create(reader, folder, *texts, save_every=1000)
    whole = "\n\n".join("".join(text).rstrip() for text in texts)
    assert asked(reader, folder, "why?") == chat(reader, f"{whole}\n\nwhy?")


def test_files_and_open_files_are_read_as_they_are(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\r\n \n")
    reader = Reader(nano)
    create(reader, tmp_path / "c", path, io.StringIO("three\n"), "four")
    assert asked(reader, tmp_path / "c", "?") == chat(reader, "one\r\ntwo\n\nthree\n\nfour\n\n?")
    assert Context.open(tmp_path / "c").manifest.meta == {
        "kind": "text", "sources": ["text 0", "text 1", "text 2"], "start": 0, "model": "nano"
    }  # fmt: skip


def test_a_reading_tells_its_progress_and_saves_as_it_goes(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    steps = create(Reader(nano), tmp_path, STORY)
    total = steps[-1].total
    assert [step.tokens for step in steps[:4]] == [0, 20, 40, 60] and steps[-1].tokens == total
    assert len(Context.open(tmp_path).manifest.parts) == -(-total // 20)


def test_a_reading_that_died_goes_on_and_ends_the_same(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    create(Reader(nano), tmp_path / "whole", STORY)
    dying = Reader(nano, stop_after=45)
    with pytest.raises(RequestError, match="the reader died"):
        create(dying, tmp_path / "half", STORY)
    with pytest.raises(CheckpointError, match=r"is not complete: 40 of its \d+ tokens have been read"):
        asked(dying, tmp_path / "half", "why?")
    with pytest.raises(CheckpointError, match="is not complete; finish it with the same `context create` first"):
        contexts.extend(llm_of(dying), tmp_path / "half", {"more": STORY})
    second = Reader(nano)
    steps = create(second, tmp_path / "half", STORY)
    assert steps[0].tokens == 40 and second.read == [steps[0].total - 40]
    half, whole = Context.open(tmp_path / "half"), Context.open(tmp_path / "whole")
    assert half.ids.tolist() == whole.ids.tolist()
    assert half.load(lambda *_: None) == whole.load(lambda *_: None)
    again = Reader(nano)
    assert len(create(again, tmp_path / "half", STORY)) == 1 and again.read == [], "nothing is left to read"


def test_a_source_that_changed_is_refused_with_the_place(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    with pytest.raises(RequestError):
        create(Reader(nano, stop_after=45), tmp_path, STORY)
    with pytest.raises(CheckpointError, match=r"holds another text: token \d+ is \d+ there and \d+ in what was given"):
        create(Reader(nano), tmp_path, "X" + STORY)
    with pytest.raises(CheckpointError, match="holds 40 tokens already, and what was given has only"):
        create(Reader(nano), tmp_path, "The old farmer")
    create(Reader(nano), tmp_path, STORY)
    with pytest.raises(CheckpointError, match=r"is complete with .* tokens, and the text given now has"):
        create(Reader(nano), tmp_path, STORY + "more")
    with pytest.raises(CheckpointError, match="holds another text"):
        create(Reader(nano), tmp_path, "X" + STORY)


def test_an_extension_is_one_text_with_what_was_there(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    reader = Reader(nano)
    create(reader, tmp_path, STORY)
    base = Context.open(tmp_path).manifest.tokens
    read(contexts.extend(llm_of(reader), tmp_path, {"more": "A second story. \n"}))
    assert reader.read[1] < 20
    assert asked(reader, tmp_path, "why?") == chat(reader, f"{STORY.rstrip()}\n\nA second story.\n\nwhy?")
    record = Context.open(tmp_path).manifest
    assert record.meta["sources"] == ["text 0", "more"] and record.meta["start"] == base
    read(contexts.extend(llm_of(reader), tmp_path, {"more": "A second story."}))
    assert Context.open(tmp_path).manifest == record, "the same command twice adds nothing twice"
    read(contexts.extend(llm_of(reader), tmp_path, {"third": "The end."}))
    assert asked(reader, tmp_path, "?") == chat(reader, f"{STORY.rstrip()}\n\nA second story.\n\nThe end.\n\n?")


def test_an_extension_that_died_goes_on(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    create(Reader(nano), tmp_path, STORY)
    base = Context.open(tmp_path).manifest.tokens
    more = {"more": STORY * 2}
    with pytest.raises(RequestError, match="the reader died"):
        read(contexts.extend(llm_of(Reader(nano, stop_after=base + 45)), tmp_path, more, save_every=20))
    with pytest.raises(CheckpointError, match="is being extended; finish that with the same `context extend`"):
        create(Reader(nano), tmp_path, STORY)
    with pytest.raises(CheckpointError, match="holds another text: token"):
        read(contexts.extend(llm_of(Reader(nano)), tmp_path, {"more": "other"}))
    second = Reader(nano)
    read(contexts.extend(llm_of(second), tmp_path, more))
    assert second.read == [Context.open(tmp_path).manifest.tokens - base - 40]
    assert asked(second, tmp_path, "?") == chat(second, f"{STORY.rstrip()}\n\n{(STORY * 2).rstrip()}\n\n?")


def test_too_long_is_refused_before_the_end_is_seen(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    drawn = 0

    def endless() -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield STORY * 100

    with pytest.raises(ContextLengthExceeded, match="the context has 5,000 tokens or more, and the model takes 5,000"):
        create(Reader(nano, max_model_len=5000), tmp_path / "c", endless())
    assert drawn < 100 and not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["", " \n\n ", "\ufeff"[:0]])
def test_an_empty_text_is_refused_by_name(tmp_path: Path, nano: MiniMaxM1Tokenizer, text: str) -> None:
    with pytest.raises(RequestError, match="text 1 holds no text"):
        create(Reader(nano), tmp_path / "c", STORY, text)
    assert not (tmp_path / "c").exists()


def test_a_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\xff\xfe")
    for source in (path, io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8")):
        with pytest.raises(RequestError, match="text 0 is not UTF-8: invalid start byte"):
            create(Reader(nano), tmp_path / "c", source)


def test_another_model_may_not_ask(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    reader = Reader(nano)
    create(reader, tmp_path, STORY)
    reader.fingerprint = "e" * 64
    with pytest.raises(CheckpointError, match=r"manifest\.json belongs to another model"):
        asked(reader, tmp_path, "?")
    reader.fingerprint, reader.dtype = "f" * 64, "bfloat16"
    with pytest.raises(CheckpointError, match="was written in float32; this model runs in bfloat16"):
        create(reader, tmp_path, STORY)


def test_an_empty_question_is_refused(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    reader = Reader(nano)
    create(reader, tmp_path, STORY)
    with pytest.raises(RequestError, match="the question is empty"):
        asked(reader, tmp_path, "")


def test_a_conversation_is_kept_extended_and_asked(tmp_path: Path, nano: MiniMaxM1Tokenizer) -> None:
    reader = Reader(nano)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "reasoning_content": "a greeting"},
    ]
    read(contexts.create_chat(llm_of(reader), tmp_path, talk, created=1.0))
    more = [*talk, {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    read(contexts.create_chat(llm_of(reader), tmp_path, more, created=1.0))
    assert reader.read[1] < len(Context.open(tmp_path).ids) and len(Context.open(tmp_path).manifest.parts) == 2
    for question in ("And 2 + 2?", "\n", "<end_of_sentence>"):
        wanted = nano.apply_chat_template([*more, {"role": "user", "content": question}])
        assert asked(reader, tmp_path, question) == wanted
        assert wanted[: len(Context.open(tmp_path).ids)] == Context.open(tmp_path).ids.tolist()
    with pytest.raises(CheckpointError, match="holds a context of the kind 'chat'; this needs one of the kind 'text'"):
        create(reader, tmp_path, STORY)


def test_nano_reads_once_and_answers_after_a_restart(tmp_path: Path) -> None:
    text = STORY + "The sky is blue. " * 150
    context = LLM("nano").create_context(tmp_path / "book", {"book": text})
    greedy = SamplingParams(temperature=0, max_tokens=20)
    again = LLM("nano")
    questions = ["What is the code of lamu?", "What is the code of the river?"]
    first, second = again.ask(tmp_path / "book", questions, greedy)
    assert "4711" in first.outputs[0].content
    assert first.cached_tokens == second.cached_tokens == len(context.ids)
    messages = [{"role": "user", "content": f"{text.rstrip()}\n\n{questions[0]}"}]
    [read_again] = LLM("nano", enable_prefix_caching=False).chat(messages, greedy)
    assert read_again.prompt_token_ids == list(first.prompt_token_ids)
    assert read_again.outputs[0].token_ids == first.outputs[0].token_ids
    assert read_again.cached_tokens == 0
