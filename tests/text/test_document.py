"""Documents: what goes on from texts or a conversation has the ids of the whole chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.text.document import chat_ids, continued, tail_ids, text_ids
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import FAMILY_SPECIALS, published_pre_tokenizer

STORY = "The code of lamu is 4711.\nIt rained."
TEXTS = {"kind": "text"}
FAR = 10**6


@pytest.fixture(scope="module")
def nano() -> MiniMaxM1Tokenizer:
    return MiniMaxM1Tokenizer.from_pretrained("nano")


said = st.text(alphabet="a .\n\t<>_begin1é漢", max_size=12)
turns = st.lists(st.tuples(said, said), max_size=2)


@settings(max_examples=40)
@given(question=said, later=turns)
def test_texts_and_a_conversation_about_them_are_one_chat(
    nano: MiniMaxM1Tokenizer, question: str, later: list[tuple[str, str]]
) -> None:
    more: list[dict[str, Any]] = []
    for answer, asked in later:
        more += [{"role": "assistant", "content": answer}, {"role": "user", "content": asked}]
    first, then = text_ids(nano, {"a": f"{STORY}\n"}, limit=FAR), tail_ids(nano, {"b": "The end."}, limit=FAR)
    ids = np.concatenate((first, then))
    whole = {"role": "user", "content": f"{STORY}\n\nThe end.\n\n{question}"}
    for content in (question, [{"type": "text", "text": question}]):
        prompt = continued(nano, TEXTS, ids, [{"role": "user", "content": content}, *more])
        assert prompt == nano.apply_chat_template([whole, *more])


@settings(max_examples=40)
@given(first=said, second=said)
def test_a_conversation_goes_on_whatever_is_said_next(nano: MiniMaxM1Tokenizer, first: str, second: str) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first},
            {"role": "assistant", "content": second, "reasoning_content": "a thought"}]  # fmt: skip
    ids = chat_ids(nano, talk, limit=FAR)
    more = [{"role": "user", "content": second}]
    prompt = continued(nano, {"kind": "chat", "messages": talk}, ids, more)
    assert prompt == nano.apply_chat_template([*talk, *more]) and prompt[: len(ids)] == ids.tolist()
    assert len(ids) > len(prompt) - len(nano.encode(second)) - 20


@pytest.mark.parametrize("question", ["\n", "\n\nwhy?", "  why?", "why?"])
def test_a_question_that_grows_together_with_what_opens_it_is_no_surprise(question: str) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = published_pre_tokenizer()  # it keeps line ends together, whoever wrote them
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["name=user\n\nwhy?\n\n\n  x"] * 9, trainer)
    backend.add_tokens([AddedToken(name, special=True, normalized=False) for name in FAMILY_SPECIALS])
    published = MiniMaxM1Tokenizer(backend, {"bos_token": "<beginning_of_sentence>", "eos_token": "<end_of_sentence>"})
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    more = [{"role": "user", "content": question}]
    meta, ids = {"kind": "chat", "messages": talk}, chat_ids(published, talk, limit=FAR)
    assert continued(published, meta, ids, more) == published.apply_chat_template([*talk, *more])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "4711"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}],
        [{"role": "user", "content": "why?"}, {"role": "developer", "content": "Be brief."}],
    ],
)
def test_what_would_change_the_beginning_is_refused(nano: MiniMaxM1Tokenizer, messages: list[dict[str, Any]]) -> None:
    ids = text_ids(nano, {"a": STORY}, limit=FAR)
    with pytest.raises(RequestError, match="begin with a user's message, the question, and hold no system message"):
        continued(nano, TEXTS, ids, messages)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}]
    ids = chat_ids(nano, talk, limit=FAR)
    meta = {"kind": "chat", "messages": talk}
    with pytest.raises(RequestError, match="these messages change how the context's conversation is written"):
        continued(nano, meta, ids, messages)


def test_content_that_is_no_text_is_refused(nano: MiniMaxM1Tokenizer) -> None:
    ids = text_ids(nano, {"a": STORY}, limit=FAR)
    with pytest.raises(RequestError, match="must be a text part"):
        continued(nano, TEXTS, ids, [{"role": "user", "content": [{"type": "image_url"}]}])


def test_a_template_that_changes_the_text_is_refused(nano: MiniMaxM1Tokenizer) -> None:
    config = {"eos_token": nano.eos_token, "bos_token": nano.bos_token}
    for template, says in (
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "shows a user's message 2 times"),
        ("{{ messages[0].content | length }}", "shows a user's message 0 times"),
        ("{{ messages[0].content | length }} {{ messages[0].content }}", "changes a text with what follows it"),
    ):
        odd = MiniMaxM1Tokenizer(nano.backend, {**config, "chat_template": template})
        with pytest.raises(RequestError, match=says):
            continued(odd, TEXTS, text_ids(odd, {"a": STORY}, limit=FAR), [{"role": "user", "content": "why?"}])


def test_a_document_may_fill_all_but_the_window(nano: MiniMaxM1Tokenizer) -> None:
    ids = text_ids(nano, {"a": STORY}, limit=FAR)
    assert ids.dtype == np.int32
    assert len(text_ids(nano, {"a": STORY}, limit=len(ids) + 1)) == len(ids)
    with pytest.raises(ContextLengthExceeded, match=f"the context has {len(ids):,} tokens or more"):
        text_ids(nano, {"a": STORY}, limit=len(ids))
    talk = [{"role": "user", "content": STORY}]
    with pytest.raises(ContextLengthExceeded) as caught:
        chat_ids(nano, talk, limit=5)
    assert caught.value.param == "messages"


def test_a_file_that_is_not_there_is_named(nano: MiniMaxM1Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the book cannot be read: No such file or directory"):
        text_ids(nano, {"the book": tmp_path / "none"}, limit=FAR)
