"""Replies are right where they do what the request says, whatever the reference is; nothing else is."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import instructions
from minimax_m1.tasks.example import Example, Reply, assistant, reference_of, user

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)


def grade(request: str, content: str) -> bool:
    example = Example(family="instructions", difficulty=1, messages=(user(request), assistant("x")), turns=(1,))
    return instructions.verify(example, 1, Reply(content=content))


RIGHT_AND_WRONG = [
    ("Write a sentence about a fox.", ["A fox slept.", "Anna saw the old fox."],
     ["The dog slept.", "fox", "A fox slept", "a fox slept.", "An fox slept.", "A fox fox slept.",
      "A fox slept. A fox ran.", "The fox zorvin.", "The old old fox slept.", "The  fox slept."]),
    ("Write a sentence. Use exactly six words.",
     ["The fox slept near the river."], ["The fox slept near the old river."]),
    ("Write a sentence. Use exactly 3 words.", ["The fox slept.", "The river sang."], ["Fox fox fox.", "Anna slept."]),
    ("Say a sentence. Use the words river and lamp.", ["The lamp stood by the river.", "The river found a lamp."],
     ["The lamp stood by the lake.", "River lamp."]),
    ("Say a sentence. End with the word river.", ["Anna ran to the river."], ["The river slept."]),
    ("Say a sentence. Begin with the word Anna.", ["Anna slept."], ["The dog saw Anna."]),
    ("Say a sentence. It has no letter e.", ["A dog ran to a school.", "Anna sat."], ["The dog ran.", "Anna slept."]),
    ("Write a sentence about Anna. Use capital letters only.", ["ANNA SAT BY THE RIVER."], ["Anna sat by the river."]),
    ("Name three animals, separated by commas.", ["fox, horse, dog", "lion,cat,cow"],
     ["fox, horse", "fox, horse, fox", "fox, horse, river", "fox horse dog", "fox, horse, dog.", "Fox, Horse, Dog"]),
    ("Name 2 cities, as a numbered list.", ["1. Paris\n2. Rome"],
     ["1. Paris\n3. Rome", "Paris\nRome", "1. Rome\n2. Rome"]),
    ("Give me 2 names, one on each line.", ["Anna\nTom"], ["Anna, Tom", "Anna\n\nTom"]),
    ("Write two words that start with b, separated by commas.",
     ["boat, bell", "brave, blue"], ["boat, lamp", "boat, bxx"]),
    ("Name two colours, separated by commas. All in capital letters.", ["RED, BLUE"], ["red, blue", "RED, blue"]),
    ("Say river three times, with a space between.", ["river river river"], ["river river", "river, river, river"]),
    ("Repeat seven 2 times, separated by commas.", ["seven, seven"], ["seven", ", ".join(["seven"] * 7)]),
    ("Say zun 2 times, one on each line. All in capital letters.", ["ZUN\nZUN"], ["zun\nzun", "ZUN ZUN"]),
    ("Write a JSON object with name = Anna and age = 7.", ['{"name": "Anna", "age": 7}', '{"age":7,"name":"Anna"}'],
     ['{"name": "Anna"}', '{"name": "Anna", "age": "7"}', '{"name": "Anna", "age": 8}',
      '{"name": "Anna", "age": 7, "x": 1}',
      '{"name": "Anna", "age": 7, "age": 7}', '[["name", "Anna"], ["age", 7]]', '{"name": "Anna", "age": true}', "{}",
      '{"name": "Anna", "age": 7']),
    ("Give me JSON with the keys city and count.", ['{"city": "Rome", "count": 12}'],
     ['{"city": "Anna", "count": 12}', '{"city": "Rome", "count": -2}',
      '{"city": ["Rome"], "count": {"a": 1}}', "5", "[1]",
      '{"city": "Rome", "count": true}', '{"city": "Rome", "count": 1.5}']),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "right", "wrong"), RIGHT_AND_WRONG)
def test_what_does_as_told_is_right_and_nothing_else(request_: str, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not grade(request_, text)] == []
    assert [text for text in wrong if grade(request_, text)] == []


@given(seed=seeds, difficulty=difficulties)
def test_references_are_accepted_and_altered_ones_are_not(seed: int, difficulty: int) -> None:
    example = instructions.sample(random.Random(seed), difficulty)
    assert example == instructions.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        assert instructions.verify(example, turn, reference)
        assert instructions.verify(example, turn, replace(reference, content=f"\n {reference.content} "))
        content = reference.content
        for wrong in (content[1:], content[:-1], content + " x", "Sure: " + content, content + "\n" + content, ""):
            assert not instructions.verify(example, turn, Reply(content=wrong)), wrong
        assert not instructions.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(seed=seeds, difficulty=difficulties)
def test_the_thought_counts_the_words_down_to_one(seed: int, difficulty: int) -> None:
    example = instructions.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        if not reference.reasoning:
            continue
        counted = re.findall(r"(\d+) (\w+)", reference.reasoning)
        assert [int(number) for number, _ in counted] == list(range(len(counted), 0, -1))
        words = re.findall(r"\w+", reference.content)
        assert [word.lower() for _, word in counted] == [word.lower() for word in words]


@given(seed=seeds, difficulty=difficulties)
def test_the_reference_follows_from_the_request(seed: int, difficulty: int) -> None:
    example = instructions.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        request = example.messages[turn - 1]["content"]
        assert instructions.answer(request) == (reference.content, reference.reasoning)
        assert instructions.fits(request, reference.content)


@given(text=st.text(max_size=60), seed=seeds)
def test_any_text_is_graded_without_an_error(text: str, seed: int) -> None:
    example = instructions.sample(random.Random(seed), 5)
    right = reference_of(example, 1).content if 1 in example.turns else ""
    turn = example.turns[0]
    assert not instructions.verify(example, turn, Reply(content=text + " ?"))
    for junk in (text, right + text, text * 2000, "[" * 50_000, '{"a":' * 150, "9" * 5000, "fox " * 20_000):
        instructions.verify(example, turn, Reply(content=junk))


def test_requests_grow_with_the_difficulty_and_stay_short() -> None:
    rng = random.Random(0)
    sizes = []
    for difficulty in (1, 4, 7, 10):
        examples = [instructions.sample(rng, difficulty) for _ in range(1500)]
        sizes.append(sum(len(json.dumps(example.messages)) for example in examples) / 1500)
        assert max(len(json.dumps(example.messages)) for example in examples) < 1200
    assert sizes == sorted(sizes) and sizes[-1] > 1.3 * sizes[0]
