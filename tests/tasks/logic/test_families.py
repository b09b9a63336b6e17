"""What holds for every puzzle: right replies pass, wrong ones and junk do not, difficulty means size."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.example import Example, Reply, draw, reference_of, split_of
from minimax_m1.tasks.logic.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

NAMES = [family.name for family in FAMILIES]
BY_NAME = dict(zip(NAMES, FAMILIES, strict=True))

names = st.sampled_from(NAMES)
seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)


def said(example: Example) -> str:
    return "\n".join(message.get("reasoning_content", "") + message["content"] for message in example.messages)


def junk() -> Iterator[str]:
    yield from ("", " ", "0", "yes no", "true false", "((((", "\x00", "\ud800", "٣+٤", "A1 A2")
    yield from (
        "(" * 100_000,
        "9" * 100_000,
        "1+" * 50_000,
        "-" * 40 + "1",
        "(" * 49 + "1" + ")" * 49,
        "1/0",
        "1/(2-2)",
    )
    yield "A: 1 2 3 4\n" * 4
    yield "A: 1 2 3 4\nB: 3 4 1 2\nC: 2 1 4 3\nD: 4 3 2 1\nE: 1 2 3 4"


@given(name=names, seed=seeds, difficulty=difficulties)
def test_the_reference_is_right_and_what_differs_is_not(name: str, seed: int, difficulty: int) -> None:
    family = BY_NAME[name]
    example = family.sample(random.Random(seed), difficulty)
    assert example.family == name and example.difficulty == difficulty and example.raw is None
    for turn in example.turns:
        reference = reference_of(example, turn)
        assert reference.content and reference.reasoning
        assert family.verify(example, turn, reference)
        assert family.verify(example, turn, Reply(content=f"\n {reference.content} \n"))
        text = reference.content
        for content in (text + "0", "0" + text, text[:-1], text[1:], text + " " + text, "Answer: " + text, text + "."):
            assert not family.verify(example, turn, Reply(content=content)), content
        assert not family.verify(example, turn, Reply(content=reference.reasoning + "\n" + text))
        assert not family.verify(example, turn, Reply(reasoning=text))
        assert not family.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(name=names, seed=seeds, text=st.text() | st.text("0123456789+-*/() "))
def test_any_text_is_graded_without_an_error(name: str, seed: int, text: str) -> None:
    family = BY_NAME[name]
    example = draw(family, random.Random(seed), 5, "train")
    turn = example.turns[-1]
    if text.strip() != reference_of(example, turn).content:
        family.verify(example, turn, Reply(content=text))


@pytest.mark.parametrize("name", NAMES)
def test_junk_is_wrong(name: str) -> None:
    family = BY_NAME[name]
    rng = random.Random(0)
    for difficulty in (1, 5, 10):
        example = family.sample(rng, difficulty)
        for text in junk():
            assert not family.verify(example, example.turns[0], Reply(content=text)), text[:50]


@given(name=names, seed=seeds, difficulty=difficulties)
def test_a_seed_tells_the_whole_example(name: str, seed: int, difficulty: int) -> None:
    family = pickle.loads(pickle.dumps(BY_NAME[name]))  # a worker in another process can have it too
    assert family.sample(random.Random(seed), difficulty) == BY_NAME[name].sample(random.Random(seed), difficulty)


@pytest.mark.parametrize("name", NAMES)
def test_a_request_tells_its_reply(name: str) -> None:
    """The thought too: it must follow from what the model reads."""
    seen: dict[str, Reply] = {}
    rng = random.Random(0)
    for _ in range(1500):
        example = BY_NAME[name].sample(rng, 1)
        for turn in example.turns:
            reply = reference_of(example, turn)
            assert seen.setdefault(example.messages[turn - 1]["content"], reply) == reply
    assert len(seen) > 300


@pytest.mark.parametrize("name", NAMES)
def test_difficulty_is_size(name: str) -> None:
    rng = random.Random(0)
    sizes = [fmean(len(said(BY_NAME[name].sample(rng, level))) for _ in range(150)) for level in (1, 4, 7, 10)]
    assert sizes == sorted(sizes) and sizes[-1] > 1.5 * sizes[0]


def test_an_example_has_at_most_800_tokens() -> None:
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    for family in FAMILIES:
        rng = random.Random(1)
        assert max(len(tokenizer.encode(said(family.sample(rng, 10)))) for _ in range(60)) <= 800, family.name


@pytest.mark.parametrize("name", NAMES)
def test_easy_puzzles_are_held_out_too(name: str) -> None:
    rng = random.Random(0)
    for split in ("validation", "test"):
        assert all(split_of(draw(BY_NAME[name], rng, 1, split)) == split for _ in range(3))


def test_a_fifth_has_two_puzzles_and_some_a_system_message() -> None:
    rng = random.Random(0)
    examples = [family.sample(rng, 3) for family in FAMILIES for _ in range(300)]
    assert 0.17 < fmean(len(example.turns) == 2 for example in examples) < 0.23
    assert 0.07 < fmean(example.messages[0]["role"] == "system" for example in examples) < 0.13
