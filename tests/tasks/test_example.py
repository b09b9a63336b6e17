"""The frame of all families: prompts, comparison of replies, splits, and what every sample must keep."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.example import (
    Example,
    Reply,
    assistant,
    call,
    draw,
    matches,
    prompt_of,
    reference_of,
    split_of,
    user,
    with_system,
)
from minimax_m1.tasks.families import FAMILIES

names = st.sampled_from(sorted(FAMILIES))
difficulties = st.integers(1, 8)
seeds = st.integers(0, 2**32)


def tool_example(arguments: dict[str, object]) -> Example:
    message = {**assistant(""), "tool_calls": [call(1, "set_light", arguments)]}
    return Example(family="tools", difficulty=1, messages=(user("light"), message), turns=(1,))


@given(name=names, seed=seeds, difficulty=difficulties)
def test_reference_is_accepted_and_altered_replies_are_not(name: str, seed: int, difficulty: int) -> None:
    family = FAMILIES[name]
    example = family.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        assert family.verify(example, turn, reference)
        assert family.verify(example, turn, replace(reference, content=f" {reference.content}\n"))
        if reference.tool_calls:
            (tool, arguments), *rest = reference.tool_calls
            values = json.loads(arguments)
            altered = [
                ((tool + "x", arguments), *rest),
                ((tool, json.dumps({**values, "more": 1})), *rest),
                ((tool, json.dumps(dict(list(values.items())[1:]))), *rest),
                ((tool, arguments[:-1]), *rest),
                *[((tool, json.dumps({**values, key: [value]})), *rest) for key, value in values.items()],
                (*reference.tool_calls, (tool, arguments)),
                tuple(rest),
            ]
            assert not any(family.verify(example, turn, replace(reference, tool_calls=calls)) for calls in altered)
            assert not family.verify(example, turn, Reply(content=arguments))
        else:
            assert reference.content
            for content in (reference.content + "0", reference.content[:-1], "", "The value is " + reference.content):
                assert not family.verify(example, turn, Reply(content=content))
            called = replace(reference, tool_calls=(("noop", "{}"),))
            assert not family.verify(example, turn, called)


@given(name=names, seed=seeds, difficulty=difficulties)
def test_a_seed_tells_the_whole_example(name: str, seed: int, difficulty: int) -> None:
    sample = FAMILIES[name].sample
    example = sample(random.Random(seed), difficulty)
    assert example == sample(random.Random(seed), difficulty)
    assert example.family == name and example.difficulty == difficulty
    graded = tuple(place for place, message in enumerate(example.messages) if message["role"] == "assistant")
    assert example.turns == graded
    assert (example.raw is None) == bool(example.messages)
    json.dumps(example.messages)


def test_one_prompt_has_one_reply() -> None:
    """What the model shall say must follow from what it reads."""
    seen: dict[str, Reply] = {}
    repeated = 0
    for name, family in FAMILIES.items():
        rng = random.Random(name)
        for number in range(1500):
            example = family.sample(rng, 1 + number % 4)
            for turn in example.turns:
                reply = reference_of(example, turn)
                key = json.dumps([prompt_of(example, turn), example.tools])
                repeated += key in seen
                assert seen.setdefault(key, reply) == reply
    assert repeated > 100  # short prompts do come again, so the test has something to find


def test_true_is_not_one_and_text_is_not_a_number() -> None:
    example = tool_example({"on": True, "level": 5, "room": "5", "share": 0.5})
    right = '{"share": 0.5, "room": "5", "level": 5, "on": true}'  # any order of keys
    assert matches(example, 1, Reply(tool_calls=(("set_light", right),)))
    assert matches(example, 1, Reply(content="Here you are.", tool_calls=(("set_light", right),)))
    for old, new in (("true", "1"), ('"5"', "5"), ("5,", '"5",'), ("true", '"true"'), ("0.5", "0.25")):
        assert old in right
        wrong = right.replace(old, new, 1)
        assert not matches(example, 1, Reply(tool_calls=(("set_light", wrong),)))


@given(text=st.text())
def test_any_text_is_graded_without_an_error(text: str) -> None:
    example = tool_example({"on": True})
    assert not matches(example, 1, Reply(tool_calls=(("set_light", text),)))


def test_deeply_nested_arguments_are_graded_without_an_error() -> None:
    assert not matches(tool_example({"on": True}), 1, Reply(tool_calls=(("set_light", "[" * 200_000),)))


def test_prompt_ends_before_the_turn() -> None:
    example = Example(
        family="talk", difficulty=1, messages=(user("a"), assistant("b"), user("c"), assistant("d")), turns=(1, 3)
    )
    assert prompt_of(example, 3) == example.messages[:3]
    behind = with_system(example, "s")
    assert behind.turns == (2, 4) and prompt_of(behind, 2) == ({"role": "system", "content": "s"}, user("a"))
    with pytest.raises(AssertionError, match="not graded"):
        prompt_of(example, 2)


def test_splits_are_stable() -> None:
    """Fixed for ever: a change here would let held-out examples into the training data."""
    raw = [Example(family="addition", difficulty=1, raw=f"{n} + {n} = {2 * n}") for n in range(1000)]
    held_out = {example.raw: split_of(example) for example in raw if split_of(example) != "train"}
    assert Counter(held_out.values()) == {"validation": 28, "test": 21}
    assert next(iter(held_out.items())) == ("47 + 47 = 94", "validation")
    assert all(split_of(replace(example, difficulty=7, family="other")) == split_of(example) for example in raw[:50])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_held_out_examples_never_appear_in_train(name: str) -> None:
    family = FAMILIES[name]
    rng = random.Random(0)
    drawn = {split: [draw(family, rng, 2, split) for _ in range(15)] for split in ("train", "validation", "test")}
    said = {
        split: {json.dumps([example.messages, example.tools, example.raw]) for example in examples}
        for split, examples in drawn.items()
    }
    assert not said["train"] & (said["validation"] | said["test"])
    assert not said["validation"] & said["test"]
    assert all(split_of(example) == split for split, examples in drawn.items() for example in examples)


def test_most_examples_are_for_training() -> None:
    rng = random.Random(3)
    counts = Counter(split_of(FAMILIES["tools"].sample(rng, 5)) for _ in range(3000))
    assert 0.95 < counts["train"] / 3000 < 0.97
    assert counts["validation"] > 30 and counts["test"] > 30
