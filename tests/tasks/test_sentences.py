"""Sentences keep the wish they were written for; the grammar has them and no other text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.sentences import Wish, keeps, write

seeds = st.integers(0, 2**32)


def whole(said: str) -> str:
    return said[0].upper() + said[1:] + "."


@given(count=st.integers(3, 14), seed=seeds)
def test_a_sentence_has_as_many_words_as_wished(count: int, seed: int) -> None:
    said = write(random.Random(seed), Wish(count=count))
    assert len(said.split()) == count
    assert keeps(Wish(count=count), whole(said)) and not keeps(Wish(count=count + 1), whole(said))


@given(letter=st.sampled_from("eaosirn"), count=st.integers(3, 8), seed=seeds)
def test_a_letter_can_be_left_out(letter: str, count: int, seed: int) -> None:
    said = write(random.Random(seed), Wish(without=letter, count=count))
    assert letter not in said.lower() and len(said.split()) == count


@given(seed=seeds)
def test_every_wish_is_kept_at_once(seed: int) -> None:
    wish = Wish(about="fox", uses=("fox", "ran"), first="the", last="river", count=8, without="y")
    said = write(random.Random(seed), wish).split()
    assert {"fox", "ran"} <= set(said) and said[0] == "the" and said[-1] == "river" and len(said) == 8


def test_what_no_sentence_can_keep_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="keeps Wish"):
        write(random.Random(0), Wish(last="zorvin"))


@pytest.mark.parametrize(
    "content", ["The fox slept.", "Anna saw an old apple.", "Every night a fox and Tom sat in the boat."]
)
def test_a_sentence_of_the_grammar(content: str) -> None:
    assert keeps(Wish(), content)


@pytest.mark.parametrize(
    "content",
    [
        "the fox slept.",
        "The fox slept",
        "The fox.",
        "Fox slept.",
        "The slept fox.",
        "The fox saw.",
        "The fox slept the dog.",
        "A apple slept.",
        "An fox slept.",
        "anna slept.",
        "The Fox slept.",
        "THE FOX SLEPT.",
        "The fox  slept.",
        "The fox slept. ",
        "The fox slept.\n",
        "The old old fox slept.",
        "The fox ran to the river to the river.",
        "The fox saw the fox.",
        "The zorvin slept.",
        ".",
    ],
)
def test_what_is_no_sentence(content: str) -> None:
    assert not keeps(Wish(), content)
