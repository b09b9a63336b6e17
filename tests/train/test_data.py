"""The stream of documents: fixed by the seed and the cursor, each family its share, positions that skip."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.addition import exchange
from minimax_m1.tasks.example import Example
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.data import Cursor, Document, documents, encode_example, skipped_positions
from minimax_m1.train.recipe import Recipe


def stream(recipe: Recipe, tokenizer: MiniMaxM1Tokenizer, cursor: Cursor, examples: int) -> list[Document]:
    return [d for _ in range(examples) for d in documents(recipe, tokenizer, cursor, 3)]


def test_the_stream_goes_on_from_its_cursor(tiny_recipe: Recipe, tokenizer: MiniMaxM1Tokenizer) -> None:
    whole, cursor = stream(tiny_recipe, tokenizer, Cursor(), 40), Cursor()
    first = stream(tiny_recipe, tokenizer, cursor, 17)
    resumed = Cursor(examples=cursor.examples, tokens=dict(cursor.tokens))
    assert first + stream(tiny_recipe, tokenizer, resumed, 23) == whole


def test_families_keep_their_shares(tiny_recipe: Recipe, tokenizer: MiniMaxM1Tokenizer) -> None:
    cursor = Cursor()
    stream(tiny_recipe, tokenizer, cursor, 600)
    total = sum(cursor.tokens.values())
    for family, share in tiny_recipe.shares.items():
        assert cursor.tokens[family] / total == pytest.approx(share, abs=0.03)


def test_only_answers_are_said(tokenizer: MiniMaxM1Tokenizer) -> None:
    example = Example(
        family="addition",
        difficulty=1,
        messages=({"role": "user", "content": "2 + 3"}, {"role": "assistant", "content": "5"}),
        turns=(1,),
    )
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
        answer = tokenizer.decode([token for token, mask in zip(ids, said, strict=True) if mask])
        assert answer.startswith("<think>") and answer.endswith(f"{total}<end_of_sentence>")


@given(st.integers(1, 300), st.integers(0, 10**6), st.integers(0, 10**6))
def test_positions_rise_and_stay_below_the_limit(length: int, limit: int, seed: int) -> None:
    positions = skipped_positions(length, limit, random.Random(seed))
    assert len(positions) == length and positions[0] == 0
    assert all(a < b for a, b in pairwise(positions))
    assert positions[-1] < max(limit, length)
    assert sum(b - a > 1 for a, b in pairwise(positions)) <= 3
