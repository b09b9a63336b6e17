"""The text holds what is asked, once; lengths and depths are what they were ordered to be."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import recall
from minimax_m1.tasks.example import Example, reference_of
from minimax_m1.tasks.prose import approx_tokens, sentence

PLAIN = set(re.findall(r"\w+", " ".join(recall._QUESTIONS))) | {"The", "the"}  # words of every question


def first_prompt(example: Example) -> str:
    content = next(message["content"] for message in example.messages if message["role"] == "user")
    assert isinstance(content, str)
    return content


def document_of(example: Example) -> str:
    return max(first_prompt(example).split("\n\n"), key=len)


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 9))
def test_every_answer_stands_in_the_text(seed: int, difficulty: int) -> None:
    example = recall.sample(random.Random(seed), difficulty)
    document = document_of(example)
    assert 1 <= len(example.turns) <= recall.MOST_QUESTIONS
    for turn in example.turns:
        key, _, value = reference_of(example, turn).content.partition(": ")
        assert key in example.messages[turn - 1]["content"]
        assert re.search(rf"\b{re.escape(key)}\b.{{1,16}}\b{re.escape(value)}\b", document)
        assert "reasoning_content" not in example.messages[turn]


@given(seed=st.integers(0, 2**32))
def test_keys_of_a_document_are_unique(seed: int) -> None:
    fact = recall.facts(random.Random(seed))
    keys = [fact()[0] for _ in range(recall.MOST_PAIRS)]
    assert len(set(keys)) == len(keys)
    starts = [key[:2] for key in keys]
    assert len(set(starts)) < len(starts)  # some begin alike


@given(seed=st.integers(0, 2**32))
def test_a_listing_asks_for_a_line_of_its_own(seed: int) -> None:
    rng = random.Random(seed)
    text, pairs = recall._listing(rng, recall.facts(rng), 300)
    lines = text.splitlines()
    assert len(lines) == len(pairs) >= 2
    for key, value in pairs:
        assert (
            sum(re.fullmatch(rf"{re.escape(key)}(: | = |:| ){re.escape(value)}", line) is not None for line in lines)
            == 1
        )


@pytest.mark.parametrize("length", [60, 300, 1000, 4000])
def test_length_as_ordered(length: int) -> None:
    rng = random.Random(length)
    for _ in range(20):
        size = approx_tokens(first_prompt(recall.sample(rng, 5, length)))
        assert abs(size - length) <= 0.02 * length + 25


def test_the_family_makes_texts_of_any_length_quickly() -> None:
    assert recall.FAMILY.at_length is not None
    rng = random.Random(0)
    took = []
    for difficulty in (1, 5, 10):
        start = time.process_time()
        example = recall.FAMILY.at_length(rng, difficulty, 131_072)
        took.append(time.process_time() - start)
        assert abs(approx_tokens(first_prompt(example)) - 131_072) <= 0.02 * 131_072
    assert min(took) < 0.4  # 0.1 s for each 32,768 tokens


def test_difficulty_sets_the_length_from_40_to_4000() -> None:
    rng = random.Random(0)
    sizes = [[approx_tokens(first_prompt(recall.sample(rng, d))) for _ in range(25)] for d in range(1, 11)]
    means = [sum(row) / len(row) for row in sizes]
    assert means == sorted(means)
    assert min(sizes[0]) > 30 and max(sizes[0]) < 90
    assert min(sizes[-1]) > 2300 and max(sizes[-1]) < 4100


@given(seed=st.integers(0, 2**32), tokens=st.integers(200, 4000), depth=st.floats(0, 1))
def test_needle_hits_length_and_depth(seed: int, tokens: int, depth: float) -> None:
    example = recall.needle(random.Random(seed), tokens, depth)
    prompt = first_prompt(example)
    assert abs(approx_tokens(prompt) - tokens) <= 0.02 * tokens
    document, question = prompt.split("\n\n")
    fact = [
        line
        for line in document.split(". ")
        if set(re.findall(r"\w+", line)) & (set(re.findall(r"\w+", question)) - PLAIN)
    ]
    assert len(fact) == 1 and reference_of(example, 1).content.split(": ")[1] in fact[0]
    before = approx_tokens(document[: document.index(fact[0])])
    assert abs(before - depth * tokens) <= 40 + 0.03 * tokens


def test_needle_counts_with_the_callers_tokenizer() -> None:
    for depth in (0.0, 0.5, 1.0):
        example = recall.needle(random.Random(1), 6000, depth, count=len)  # characters as tokens
        assert abs(len(first_prompt(example)) - 6000) <= 120


def test_approximate_tokens() -> None:
    assert approx_tokens("The cat saw 12 birds.\n") == 4 + 2 + 4 + 1 + 1
    assert approx_tokens("") == 0
    rng = random.Random(0)
    assert all(5 <= approx_tokens(sentence(rng)) <= 25 for _ in range(500))
