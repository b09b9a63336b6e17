"""A told story is one the grammar can tell and has what was asked for; a question has the one word as its answer."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import stories
from minimax_m1.tasks.example import Example, Reply, assistant, reference_of, user

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)
STORY = (
    "Once a fox lived by the lake. The fox wanted a lamp. But a wolf took the lamp. In the end the fox had the lamp."
)


def grade(request: str, content: str) -> bool:
    example = Example(family="stories", difficulty=1, messages=(user(request), assistant("x")), turns=(1,))
    return stories.verify(example, 1, Reply(content=content))


def test_a_story_is_right_whatever_the_reference_is() -> None:
    assert grade("Tell me a story about a fox.", STORY)
    assert grade("Tell me a story about a fox and a lamp.", f" {STORY}\n")
    assert grade("Tell me a story of 4 sentences about a wolf.", STORY)
    assert grade("Tell me a story about Anna.", STORY.replace("the fox", "Anna").replace("The", "Anna", 1).replace(
        "Anna fox", "Anna").replace("a fox", "Anna"))  # fmt: skip
    assert not grade("Tell me a story about Anna.", STORY)
    assert not grade("Tell me a story about a fox and a bell.", STORY)
    assert not grade("Tell me a story of 5 sentences about a fox.", STORY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("The fox wanted", "The wolf wanted"),  # another one than the hero
        ("had the lamp.", "had the bell."),  # another thing
        ("a wolf", "a fox"),  # the hero is in their own way
        (" The fox wanted a lamp.", ""),  # no wish
        (" But a wolf took the lamp.", ""),  # nobody in the way
        (" In the end the fox had the lamp.", ""),  # no end
        ("In the end the fox had the lamp.", "In the end the fox had the lamp"),
        ("Once", "once"),
        ("a fox", "an fox"),
        ("the lake", "the zorvin"),
        ("the lake", "the lamp"),
        (". The", ".  The"),
        (". The", ".The"),
        ("wanted a lamp.", "wanted a lamp. The fox wanted a lamp."),
        ("wanted a lamp.", "wanted a lamp. The wolf ran away. The fox found the lamp."),  # not in order
        ("took the lamp.", "took the lamp. The bird helped the fox."),  # a friend who never came
        ("wanted a lamp.", "wanted a lamp. The castle was red."),  # where nobody went
        ("wanted a lamp.", "wanted a lamp. One night the fox went to the lake."),  # where the fox lived
        ("Once", "Fox fox. Once"),
    ],
)
def test_a_story_with_a_flaw_is_no_story(old: str, new: str) -> None:
    assert stories.follows_grammar(STORY) == 4
    assert old in STORY and stories.follows_grammar(STORY.replace(old, new, 1)) == 0


@given(seed=seeds, difficulty=difficulties)
def test_references_are_accepted_and_altered_ones_are_not(seed: int, difficulty: int) -> None:
    example = stories.sample(random.Random(seed), difficulty)
    assert example == stories.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        content = reference.content
        assert stories.verify(example, turn, reference)
        assert stories.verify(example, turn, replace(reference, content=f"\n {content} "))
        for wrong in (
            content[1:],
            content[:-1],
            content + " x",
            f"Here: {content}",
            f"{content}\n{content}",
            "",
            "fox.",
        ):
            assert not stories.verify(example, turn, Reply(content=wrong)), wrong
        assert not stories.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(seed=seeds, difficulty=difficulties)
def test_an_answer_stands_in_the_story_and_its_thought_says_the_question(seed: int, difficulty: int) -> None:
    example = stories.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        if ": " not in reference.reasoning:
            continue
        question, _, said = reference.reasoning.partition(": ")
        assert said == reference.content and question[1:] in example.messages[turn - 1]["content"]
        before = " ".join(message["content"] for message in example.messages[:turn])
        assert re.search(rf"\b{said}\b", before.replace(question[1:], ""))


def test_each_question_has_one_answer() -> None:
    """The same question about the same story never has another answer, and no other slot holds the same word."""
    for seed in range(300):
        _, _, slots = stories.tell(str(seed), 12)
        names = [slots[name] for name in ("hero", "foe", "friend", "thing", "place", "goal")]
        assert len(set(names)) == len(names)


@given(count=st.integers(4, 12), seed=seeds)
def test_a_story_has_as_many_sentences_as_asked(count: int, seed: int) -> None:
    told, beats, slots = stories.tell(f"Write a story about a fox in {count} sentences. {seed}")
    assert told.count(".") == len(beats) == count == stories.follows_grammar(told)
    assert slots["hero"] == "fox"


def test_a_plan_counts_the_sentences_down() -> None:
    _, beats, _ = stories.tell("Write a story about a fox in 5 sentences.")
    plan = re.findall(r"(\d+) (\w+)", stories._plan(beats))
    assert [int(number) for number, _ in plan] == [5, 4, 3, 2, 1]
    assert plan[0][1] == "live" and plan[-1][1] == "end"


@given(seed=seeds)
def test_the_story_follows_from_the_request(seed: int) -> None:
    example = stories.sample(random.Random(seed), 6)
    request = example.messages[0]["content"]
    if "\n" not in request:
        assert stories.tell(request)[0] == example.messages[1]["content"]


@given(text=st.text(max_size=80), seed=seeds)
def test_any_text_is_graded_without_an_error(text: str, seed: int) -> None:
    example = stories.sample(random.Random(seed), 5)
    for turn in example.turns:
        assert not stories.verify(example, turn, Reply(content=text + " ?"))
        for junk in (text, text * 1500, "." * 2000, "The fox. " * 200, "a" * 100_000, "The " * 400 + "."):
            assert not stories.verify(example, turn, Reply(content=junk))


def test_stories_grow_with_the_difficulty() -> None:
    rng = random.Random(0)
    means = []
    for difficulty in (1, 4, 7, 10):
        told = [stories.tell(stories._request(rng, difficulty))[0].count(".") for _ in range(500)]
        means.append(sum(told) / 500)
    assert means == sorted(means) and means[0] < 6 and means[-1] > 9
