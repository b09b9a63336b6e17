"""Families as sources: a draw follows from its number alone, fits the length, and is of the training split."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from minimax_m1.errors import DataError
from minimax_m1.tasks.addition import exchange
from minimax_m1.tasks.example import Example, Family, assistant, split_of, user
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.family import FamilySource, encode_example


def test_a_draw_follows_from_its_number_and_seed_alone(tokenizer: MiniMaxM1Tokenizer) -> None:
    one, other = (FamilySource("recall", tokenizer, 5, 1000) for _ in range(2))
    forth = [one.draw(index, 3, 4096) for index in range(6)]
    back = [other.draw(index, 3, 4096) for index in reversed(range(6))]
    assert forth == back[::-1]
    assert FamilySource("recall", tokenizer, 6, 1000).draw(0, 3, 4096) != forth[0]
    assert [document.place for document in forth[4]] == ["recall/4"] * len(forth[4])


def test_documents_are_never_longer_than_asked(tokenizer: MiniMaxM1Tokenizer) -> None:
    source = FamilySource("recall", tokenizer, 0, 0)
    lengths = [len(document.ids) for index in range(8) for document in source.draw(index, 4, 700)]
    assert max(lengths) <= 700
    with pytest.raises(DataError, match="none of 1000 examples of talk fits into 3 tokens"):
        FamilySource("talk", tokenizer, 0, 0).draw(0, 1, 3)


def test_difficulty_reaches_the_most_and_no_further(
    tokenizer: MiniMaxM1Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def sample(rng: random.Random, difficulty: int) -> Example:
        asked.append(difficulty)
        messages = (user(str(rng.random())), assistant("yes"))
        return Example(family="talk", difficulty=difficulty, messages=messages, turns=(1,))

    monkeypatch.setattr("minimax_m1.train.family.FAMILIES", {"talk": replace(FAMILIES["talk"], sample=sample)})
    source = FamilySource("talk", tokenizer, 0, 0)
    for index in range(60):
        source.draw(index, 4, 100)
    assert set(asked) == {1, 2, 3, 4}


def test_where_a_run_is_long_half_of_the_draws_are_written_at_length(
    tokenizer: MiniMaxM1Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    examples = []

    def at_length(rng: random.Random, difficulty: int, length: int) -> Example:
        lengths.append(length)
        messages = (user(f"long {rng.random()}"), assistant("yes"))
        examples.append(Example(family="talk", difficulty=difficulty, messages=messages, turns=(1,)))
        return examples[-1]

    family: Family = replace(FAMILIES["talk"], at_length=at_length)
    monkeypatch.setattr("minimax_m1.train.family.FAMILIES", {"talk": family})
    source = FamilySource("talk", tokenizer, 0, 0)
    texts = [tokenizer.decode(source.draw(index, 3, 32_768)[0].ids) for index in range(200)]
    assert 70 < sum("long" in text for text in texts) < 130
    assert min(lengths) >= 1024 and max(lengths) <= 0.9 * 32_768
    assert 0.25 < sum(length < 5495 for length in lengths) / len(lengths) < 0.75  # the middle of the logarithms
    assert any(split_of(example) != "train" for example in examples)
    trained = [example.messages[0]["content"] for example in examples if split_of(example) == "train"]
    assert sum(any(said in text for said in trained) for text in texts) == sum("long" in text for text in texts)
    lengths.clear()
    for index in range(50):
        source.draw(index, 3, 4096)
    assert not lengths


def test_an_unknown_family_is_named(tokenizer: MiniMaxM1Tokenizer) -> None:
    with pytest.raises(DataError, match="no task family 'poetry'; there are addition,"):
        FamilySource("poetry", tokenizer, 0, 0)


def test_only_answers_are_said(tokenizer: MiniMaxM1Tokenizer) -> None:
    example = Example(family="addition", difficulty=1, messages=(user("2 + 3"), assistant("5")), turns=(1,))
    ((ids, said),) = encode_example(example, tokenizer)
    answer = [token for token, mask in zip(ids, said, strict=True) if mask]
    assert tokenizer.decode(answer) == "5<end_of_sentence>"


def test_of_a_raw_sum_only_the_answer_is_said(tokenizer: MiniMaxM1Tokenizer) -> None:
    ((ids, said),) = encode_example(Example(family="sums", difficulty=1, raw="2 + 2 = 4"), tokenizer)
    assert tokenizer.decode(ids) == "2 + 2 = 4<end_of_sentence>"
    assert tokenizer.decode([token for token, mask in zip(ids, said, strict=True) if mask]) == " 4<end_of_sentence>"


def test_thoughts_of_earlier_turns_are_trained_in_texts_of_their_own(tokenizer: MiniMaxM1Tokenizer) -> None:
    rng = random.Random(0)
    messages = (*exchange(12, 30, rng), *exchange(45, 67, rng))
    example = Example(family="addition", difficulty=2, messages=tuple(messages), turns=(1, 3))
    texts = list(encode_example(example, tokenizer))
    assert len(texts) == 2
    for (ids, said), total in zip(texts, ("42", "112"), strict=True):
        answer = str(tokenizer.decode([token for token, mask in zip(ids, said, strict=True) if mask]))
        assert answer.startswith("<think>") and answer.endswith(f"{total}<end_of_sentence>")
