"""What is looked up stands in the text as said: the last value, all of them, as often as told."""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import lookup
from minimax_m1.tasks.example import Example, Reply, reference_of
from minimax_m1.tasks.prose import approx_tokens

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)


def document_of(example: Example) -> str:
    content = next(message["content"] for message in example.messages if message["role"] == "user")
    assert isinstance(content, str)
    return content.rpartition("\n\n")[0]


def questions(seed: int, difficulty: int) -> list[tuple[str, str, Reply]]:
    """(document, question, reference) of one example."""
    example = lookup.sample(random.Random(seed), difficulty)
    asked = [example.messages[turn - 1]["content"].rpartition("\n\n")[2] for turn in example.turns]
    replies = [reference_of(example, turn) for turn in example.turns]
    return [(document_of(example), question, reply) for question, reply in zip(asked, replies, strict=True)]


@given(seed=seeds, difficulty=difficulties)
def test_every_line_is_a_fact_of_the_text(seed: int, difficulty: int) -> None:
    for document, _, reply in questions(seed, difficulty):
        lines = reply.reasoning.splitlines()[:-1] or reply.content.splitlines()
        for line in lines:
            key, value = line.split(": ")
            name = re.escape(key.split()[0])
            assert re.search(rf"\b{name}\b[^.\n]*\b{re.escape(value)}\b", document), line


@given(seed=seeds, difficulty=difficulties)
def test_the_thought_goes_through_all_values_in_order(seed: int, difficulty: int) -> None:
    for document, question, reply in questions(seed, difficulty):
        if not reply.reasoning:
            continue
        *rows, none = (re.fullmatch(r"(\w+) (\d+): (\w+)", line) for line in reply.reasoning.splitlines())
        assert none and none[3] == "none" and int(none[2]) == len(rows) + 1
        found = [(row[1], int(row[2]), row[3]) for row in rows if row]
        assert [number for _, number, _ in found] == list(range(1, len(rows) + 1))
        key, values = found[0][0], [value for _, _, value in found]
        sentences = re.split(r"[.\n] ?", document)
        told = [line for line in sentences if re.search(rf"\b{key}\b.*(\d| now)$", line)]
        assert [re.findall(r"\d+", line)[-1] for line in told] == values
        counted = reply.content == f"{key}: {len(values)}"
        assert counted or reply.content == f"{key}: {values[-1]}"
        if str(len(values)) != values[-1]:
            assert counted == bool(re.search(r"How|[Cc]ount", question))


@given(seed=seeds, difficulty=difficulties)
def test_all_of_a_kind_are_listed(seed: int, difficulty: int) -> None:
    for document, question, reply in questions(seed, difficulty):
        if not re.search(r"List|every|Find all|what has", question):
            continue
        kind = next(kind for kind in lookup._KINDS if re.search(rf"\b{kind}s?\b", question))
        found = re.findall(rf"\b{kind} (?:of|for) (\w+)|(\w+) has the {kind}\b", document)
        assert [one or other for one, other in found] == re.findall(r"(?m)^(\w+):", reply.content)  # as in the text


@given(seed=seeds, difficulty=difficulties)
def test_references_are_accepted_and_altered_ones_are_not(seed: int, difficulty: int) -> None:
    example = lookup.sample(random.Random(seed), difficulty)
    assert example == lookup.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        assert lookup.verify(example, turn, replace(reference, reasoning="", content=f"\n{reference.content} "))
        lines = reference.content.split("\n")
        assert lookup.verify(example, turn, Reply(content="\n".join(reversed(lines))))
        wrong = ["\n".join(lines[1:]), "\n".join([*lines, lines[0]]), reference.content + "0", reference.content[1:]]
        wrong += [reference.content[:-1], lines[0].split(": ")[1], ", ".join([*lines, ""]), "The value is " + lines[0]]
        assert not any(lookup.verify(example, turn, Reply(content=content)) for content in wrong)
        assert not lookup.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(text=st.text(max_size=80), seed=seeds)
def test_any_text_is_graded_without_an_error(text: str, seed: int) -> None:
    example = lookup.sample(random.Random(seed), 5)
    for turn in example.turns:
        for junk in (text, text * 1500, "\n" * 100_000, "x: 1\n" * 20_000):
            assert not lookup.verify(example, turn, Reply(content=junk))


@pytest.mark.parametrize("length", [1000, 4000, 32_768])
def test_length_as_ordered(length: int) -> None:
    assert lookup.FAMILY.at_length is not None
    rng = random.Random(length)
    for difficulty in range(1, 11):
        example = lookup.FAMILY.at_length(rng, difficulty, length)
        assert abs(approx_tokens(document_of(example)) - length) <= 0.02 * length + 30


def test_a_long_text_is_quick_to_make() -> None:
    assert lookup.FAMILY.at_length is not None
    rng = random.Random(0)
    took = []
    for _ in range(5):
        start = time.process_time()
        lookup.FAMILY.at_length(rng, 5, 131_072)
        took.append(time.process_time() - start)
    assert min(took) < 0.4  # 0.1 s for each 32,768 tokens


def test_difficulty_sets_the_length_and_the_number_of_lines() -> None:
    rng = random.Random(0)
    sizes, lines = [], []
    for difficulty in (1, 4, 7, 10):
        examples = [lookup.sample(rng, difficulty) for _ in range(300)]
        sizes.append(sum(approx_tokens(document_of(example)) for example in examples) / 300)
        replies = [reference_of(example, turn) for example in examples for turn in example.turns]
        lines.append(sum(len((reply.reasoning + reply.content).splitlines()) for reply in replies) / len(replies))
    assert sizes == sorted(sizes) and sizes[0] < 90 and 300 < sizes[-1] < 600
    assert lines == sorted(lines) and lines[-1] > 1.5 * lines[0]
