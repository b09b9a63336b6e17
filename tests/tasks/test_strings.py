"""Jobs on letters and lists: answers agree with plain Python, thoughts say the right thing in every line."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import letters, lists
from minimax_m1.tasks.example import Reply, draw, prompt_of, reference_of
from minimax_m1.tasks.job import Job
from minimax_m1.tasks.strings import FAMILY
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)
JOBS = {job.name: job for job in letters.JOBS + lists.JOBS}

ANSWERS: dict[str, Callable[..., str]] = {
    "reverse": lambda word: word[::-1],
    "sort": lambda word: " ".join(sorted(word)),
    "once": lambda word: "".join(dict.fromkeys(word)),
    "count": lambda word, letter: str(word.count(letter)),
    "shift": lambda word, count: "".join(chr((ord(letter) - 97 + count) % 26 + 97) for letter in word),
    "first": lambda word, count: word[:count],
    "last": lambda word, count: word[len(word) - count :],
    "nth": lambda word, place: word[place - 1],
    "length": lambda word: str(len(word)),
    "spell": lambda word: "-".join(word),
    "capitals": lambda word: word.upper(),
    "reverse list": lambda items: ", ".join(map(str, reversed(items))),
    "sort list": lambda items: ", ".join(map(str, sorted(items))),
    "largest": lambda items: str(max(items)),
    "smallest": lambda items: str(min(items)),
    "once in list": lambda items: ", ".join(map(str, dict.fromkeys(items))),
    "count in list": lambda items, wanted: str(sum(item == wanted for item in items)),
    "first items": lambda items, count: ", ".join(map(str, items[:count])),
    "last items": lambda items, count: ", ".join(map(str, items[len(items) - count :])),
    "nth item": lambda items, place: str(items[place - 1]),
    "length of list": lambda items: str(len(items)),
    "join": lambda items, sign: sign.join(items),
}


def arguments_of(job: Job, seed: int, difficulty: int) -> dict[str, Any]:
    return dict(job.draw(random.Random(seed), difficulty))


@pytest.mark.parametrize("name", sorted(JOBS))
@given(seed=seeds, difficulty=difficulties)
def test_answers_are_right(name: str, seed: int, difficulty: int) -> None:
    arguments = arguments_of(JOBS[name], seed, difficulty)
    assert JOBS[name].solve(**arguments)[1] == ANSWERS[name](**arguments)


@pytest.mark.parametrize("job", letters.JOBS, ids=lambda job: job.name)
@given(seed=seeds, difficulty=difficulties)
def test_a_thought_spells_the_word_and_numbers_its_letters_right(job: Job, seed: int, difficulty: int) -> None:
    arguments = arguments_of(job, seed, difficulty)
    word = arguments["word"]
    head, *lines = job.solve(**arguments)[0].splitlines()
    assert head == f"{word}: " + " ".join(f"{place}{letter}" for place, letter in enumerate(word, 1))
    for line in lines:
        if job.name != "last" or "-" not in line:
            found = re.match(r"(\d+)([a-z])", line)
            assert found and word[int(found[1]) - 1] == found[2]


@pytest.mark.parametrize("job", lists.JOBS, ids=lambda job: job.name)
@given(seed=seeds, difficulty=difficulties)
def test_a_thought_numbers_the_items_right(job: Job, seed: int, difficulty: int) -> None:
    arguments = arguments_of(job, seed, difficulty)
    items = list(map(str, arguments["items"]))
    for line in job.solve(**arguments)[0].splitlines():
        found = re.match(r"(\d+)\) (\w+)", line)
        assert (found and items[int(found[1]) - 1] == found[2]) or (job.name == "last items" and "-" in line)


GROWING = {"reverse": " ", "shift": " ", "capitals": " ", "first": " ", "once": " ", "count": " ", "sort": ": "}
GROWING |= {name: ": " for name in ("reverse list", "sort list", "largest", "smallest", "once in list", "first items")}


@pytest.mark.parametrize("name", sorted(GROWING))
@given(seed=seeds, difficulty=difficulties)
def test_every_line_has_the_result_so_far(name: str, seed: int, difficulty: int) -> None:
    """The line of the n-th letter or item ends with the answer to the first n (of the reverse: to the last n)."""
    arguments = arguments_of(JOBS[name], seed, difficulty)
    key = "word" if "word" in arguments else "items"
    whole, back = arguments[key], name.startswith("reverse")
    lines = JOBS[name].solve(**arguments)[0].splitlines()
    lines = lines[len(whole) if name == "reverse list" else key == "word" :]
    assert len(lines) == (arguments["count"] if name.startswith("first") else len(whole))
    for done, line in enumerate(lines, 1):
        part = whole[len(whole) - done :] if back else whole[:done]
        assert line.endswith(GROWING[name] + ANSWERS[name](**{**arguments, key: part})), line


def test_thoughts_as_they_read() -> None:
    assert letters.reverse("cat") == ("cat: 1c 2a 3t\n3t t\n2a ta\n1c tac", "tac")
    assert letters.last("bread", 2) == ("bread: 1b 2r 3e 4a 5d\n5-2=3\n4a a\n5d ad", "ad")
    assert letters.once("noon") == ("noon: 1n 2o 3o 4n\n1n new n\n2o new no\n3o old no\n4n old no", "no")
    assert letters.count("noon", "o")[0].splitlines()[1:] == ["1n=o no 0", "2o=o yes 1", "3o=o yes 2", "4n=o no 2"]
    assert letters.shift("xyz", 2)[0].splitlines()[1:] == ["1x+2=z z", "2y+2=a za", "3z+2=b zab"]
    assert letters.sort("cab")[0].splitlines()[1:] == ["1c: c", "2a: a c", "3b: a b c"]
    assert lists.sort((7, 3, 12)) == ("1) 7: 7\n2) 3: 3, 7\n3) 12: 3, 7, 12", "3, 7, 12")
    assert lists.last(("a", "b", "c"), 2)[0] == "1) a\n2) b\n3) c\n3-2=1\n2) b: b\n3) c: b, c"
    assert lists.count((4, 5, 4), 4) == ("1) 4=4 yes 1\n2) 5=4 no 1\n3) 4=4 yes 2", "2")
    assert lists.once((4, 4, 5))[0] == "1) 4 new: 4\n2) 4 old: 4\n3) 5 new: 4, 5"


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_every_phrasing_says_all_that_is_needed(job: Job) -> None:
    assert len(job.prompts) >= 5 and len(set(job.prompts)) == len(job.prompts)
    for prompt in job.prompts:
        assert all("{" + name + "}" in prompt for name in arguments_of(job, 0, 5)), prompt


@given(seed=seeds, difficulty=difficulties)
def test_the_reference_is_right_and_everything_else_is_wrong(seed: int, difficulty: int) -> None:
    example = FAMILY.sample(random.Random(seed), difficulty)
    for turn in example.turns:
        reference = reference_of(example, turn)
        answer = reference.content
        assert FAMILY.verify(example, turn, reference)
        assert FAMILY.verify(example, turn, Reply(content=f"\n {answer} "))
        asked = prompt_of(example, turn)[-1]["content"]
        wrong = {"", answer + ".", answer[1:], answer[:-1], answer + answer[-1], "x" + answer, f'"{answer}"', asked}
        wrong |= {answer[::-1], answer.swapcase(), answer.replace(",", ""), answer.replace(" ", ""), f"It is {answer}"}
        wrong |= {reference.reasoning, f"<think>{answer}", str(9 - int(answer[-1])) if answer.isdecimal() else "0"}
        for content in wrong - {answer}:
            assert not FAMILY.verify(example, turn, Reply(content=content)), content
        assert not FAMILY.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(text=st.text())
def test_junk_is_wrong_and_raises_nothing(text: str) -> None:
    example = FAMILY.sample(random.Random(7), 10)
    for junk in (text, "[" * 100_000, "9" * 100_000, "\ud800\x00"):
        assert not FAMILY.verify(example, example.turns[0], Reply(reasoning=junk, content=junk))


@given(seed=seeds, difficulty=difficulties)
def test_a_seed_tells_the_example(seed: int, difficulty: int) -> None:
    first, again = (draw(FAMILY, random.Random(seed), difficulty, "test") for _ in range(2))
    assert first == again and first.family == "strings" and first.difficulty == difficulty


def test_size_grows_with_difficulty_up_to_800_tokens() -> None:
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    sizes = []
    for difficulty in (1, 4, 7, 10):
        rng = random.Random(difficulty)
        texts = []
        for _ in range(200):
            messages = FAMILY.sample(rng, difficulty).messages
            texts.append("".join(message.get("reasoning_content", "") + message["content"] for message in messages))
        assert all(len(tokenizer.encode(text)) <= 800 for text in texts if len(text) > 800)
        total = sum(map(len, texts))
        sizes.append(total)
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0], sizes


def test_words_and_lists_have_the_promised_sizes() -> None:
    rng = random.Random(0)
    words = {d: [JOBS["reverse"].draw(rng, d)["word"] for _ in range(300)] for d in (1, 10)}
    items = {d: [JOBS["largest"].draw(rng, d)["items"] for _ in range(300)] for d in (1, 10)}
    assert {len(word) for word in words[1]} == {3} and {len(word) for word in words[10]} == {9, 10, 11, 12}
    assert {len(each) for each in items[1]} == {3} and {len(each) for each in items[10]} == {6, 7, 8}
    assert max(map(max, items[1])) == 9 and 900 < max(map(max, items[10])) < 1000


def test_a_fifth_has_two_questions_and_all_jobs_come() -> None:
    rng = random.Random(0)
    examples = [FAMILY.sample(rng, 8) for _ in range(3000)]
    assert 0.17 < sum(len(example.turns) == 2 for example in examples) / 3000 < 0.23
    asked = " ".join(prompt_of(example, example.turns[0])[-1]["content"].lower() for example in examples)
    for word in ("backwards", "alphabet", "repeated", "caesar", "spell", "capital", "join", "duplicates", "largest"):
        assert word in asked
