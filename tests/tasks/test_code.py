"""Programs print what Python says they print; traces follow them statement by statement."""

from __future__ import annotations

import contextlib
import io
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks.code import FAMILY, write
from minimax_m1.tasks.example import Reply, draw, reference_of
from minimax_m1.tasks.program import run
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

seeds = st.integers(0, 2**32)
difficulties = st.integers(1, 10)


def printed_by_python(source: str) -> str:
    """What Python prints for a program of our own generator."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, {})
    return out.getvalue().rstrip("\n")


@given(seed=seeds, difficulty=difficulties)
def test_python_prints_the_same(seed: int, difficulty: int) -> None:
    source, done = write(random.Random(seed), difficulty)
    assert done == run(source)
    assert done.printed == printed_by_python(source)


@given(seed=seeds, difficulty=difficulties)
def test_steps_follow_the_difficulty_and_numbers_stay_small(seed: int, difficulty: int) -> None:
    _, done = write(random.Random(seed), difficulty)
    assert max(2, 2 * difficulty - 1) <= done.steps <= max(3, 2 * difficulty)
    highest = 20 if difficulty < 4 else 50 if difficulty < 7 else 99
    assert all((-20 if difficulty > 7 else 0) <= number <= highest for number in done.numbers)


@given(seed=seeds, difficulty=difficulties)
def test_a_trace_says_statements_of_the_program_and_ends_with_what_is_printed(seed: int, difficulty: int) -> None:
    source, done = write(random.Random(seed), difficulty)
    lines = [line.strip() for line in source.splitlines()]
    traced = done.trace.splitlines()
    for line in traced:
        statement, _, made = line.partition(": ")
        assert (statement in lines or statement + ":" in lines) and (made or line == "else:"), line
    assert traced[-1] == f"{lines[-1]}: {done.printed}"
    assert traced[0].startswith(lines[0] + ": ")
    assert len(traced) - traced.count("else:") == done.steps


@given(seed=seeds, difficulty=difficulties)
def test_sums_in_a_trace_are_true_and_read_the_latest_values(seed: int, difficulty: int) -> None:
    _, done = write(random.Random(seed), difficulty)
    state: dict[str, str] = {}
    for line in done.trace.splitlines():
        statement, _, made = line.partition(": ")
        words = statement.split()
        if len(words) == 5 and words[1] == "=" and not statement.endswith("]"):
            a, b = (state.get(word, word) for word in (words[2], words[4]))
            result = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[words[3]]
            assert made == f"{a}{words[3]}{b}={result} {words[0]}={result}"
        elif words[0] in ("if", "while"):
            a, b = (state.get(word, word) for word in (words[1], words[3]))
            met = int(a) < int(b) if words[2] == "<" else int(a) > int(b)
            assert made == f"{a}{words[2]}{b} {'yes' if met else 'no'}"
        name, _, now = made.rpartition(" ")[2].partition("=")
        if now.lstrip("-").isdecimal():
            state[name] = now


def test_traces_as_they_read() -> None:
    source = """x = 3
y = x
for i in range(1, 3):
  if y > 3:
    x = x * 2
  else:
    y = y + i
while x > 4:
  x = x - 5
a = [7, 8]
a.append(x)
y = a[1]
for i in [5]:
  y = y - i
print(y, a)"""
    done = run(source)
    assert (
        done.trace
        == """x = 3: x=3
y = x: y=3
for i in range(1, 3): i=1
if y > 3: 3>3 no
else:
y = y + i: 3+1=4 y=4
for i in range(1, 3): i=2
if y > 3: 4>3 yes
x = x * 2: 3*2=6 x=6
for i in range(1, 3): done
while x > 4: 6>4 yes
x = x - 5: 6-5=1 x=1
while x > 4: 1>4 no
a = [7, 8]: a=[7, 8]
a.append(x): a=[7, 8, 1]
y = a[1]: 0:7 1:8 y=8
for i in [5]: i=5
y = y - i: 8-5=3 y=3
for i in [5]: done
print(y, a): 3 [7, 8, 1]"""
    )
    assert done.printed == printed_by_python(source) == "3 [7, 8, 1]"
    assert done.steps == 19 and done.numbers == (3, 3, 1, 4, 2, 6, 1, 8, 5, 3)


def test_two_prints_make_two_lines() -> None:
    done = run("x = 1\nprint(x)\nif x < 1:\n  x = 5\nprint(x)")
    assert done.printed == "1\n1" and "if x < 1: 1<1 no" in done.trace


@pytest.mark.parametrize("source", ["x = y", "import os", "x = 3 / 2", "x.pop(1)", "print(1 + 1)", "x = open(1)"])
def test_what_is_no_statement_of_ours_is_not_carried_out(source: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        run(source)


def test_a_program_without_an_end_is_our_mistake() -> None:
    with pytest.raises((AssertionError, RecursionError)):
        run("x = 1\nwhile x > 0:\n  x = x + 1\nprint(x)")


def test_what_programs_are_made_of_grows_with_difficulty() -> None:
    rng = random.Random(0)
    sources = {difficulty: "\n".join(write(rng, difficulty)[0] for _ in range(100)) for difficulty in range(1, 11)}
    from_when = {"if ": 3, "else:": 3, "for ": 4, "while ": 5, "append": 6, "[": 6, "    ": 7}
    for piece, least in from_when.items():
        assert [d for d in range(1, 11) if piece in sources[d]] == list(range(least, 11)), piece


def test_outputs_are_many() -> None:
    rng = random.Random(0)
    counts = Counter(write(rng, 6)[1].printed for _ in range(500))
    assert len(counts) > 60 and counts.most_common(1)[0][1] < 60


@given(seed=seeds, difficulty=difficulties)
def test_the_reference_is_right_and_everything_else_is_wrong(seed: int, difficulty: int) -> None:
    example = FAMILY.sample(random.Random(seed), difficulty)
    (turn,) = example.turns
    reference = reference_of(example, turn)
    answer = reference.content
    assert FAMILY.verify(example, turn, reference)
    assert FAMILY.verify(example, turn, Reply(content=f"\n {answer} "))
    wrong = {"", answer + ".", answer[:-1], answer + "0", "0" + answer, f"It prints {answer}", f"```\n{answer}\n```"}
    wrong |= {
        reference.reasoning,
        answer.replace(" ", ""),
        answer.replace(" ", ", "),
        f"'{answer}'",
        f"print({answer})",
    }
    wrong |= {str(int(answer) + step) for step in (-1, 1)} if answer.lstrip("-").isdecimal() else {"0 0 0"}
    for content in wrong - {answer}:
        assert not FAMILY.verify(example, turn, Reply(content=content)), content
    assert not FAMILY.verify(example, turn, replace(reference, tool_calls=(("noop", "{}"),)))


@given(text=st.text())
def test_junk_is_wrong_and_raises_nothing(text: str) -> None:
    example = FAMILY.sample(random.Random(7), 10)
    for junk in (text, "[" * 100_000, "9" * 100_000, "\ud800\x00", "print(" * 20_000):
        assert not FAMILY.verify(example, example.turns[0], Reply(reasoning=junk, content=junk))


@given(seed=seeds, difficulty=difficulties)
def test_a_seed_tells_the_example(seed: int, difficulty: int) -> None:
    first, again = (FAMILY.sample(random.Random(seed), difficulty) for _ in range(2))
    assert first == again and first.family == "code" and first.difficulty == difficulty


def test_held_out_programs_can_be_drawn_and_are_at_most_800_tokens() -> None:
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    sizes = []
    for difficulty in (1, 4, 7, 10):
        examples = [draw(FAMILY, random.Random(f"{difficulty}/{n}"), difficulty, "test") for n in range(4)]
        texts = ["".join(m.get("reasoning_content", "") + m["content"] for m in e.messages) for e in examples]
        lengths = [len(tokenizer.encode(text)) for text in texts]
        assert max(lengths) <= 800
        sizes.append(sum(lengths))
    assert sizes == sorted(sizes) and sizes[-1] > 4 * sizes[0], sizes
